import pipeline.errors as errors


def subclasses() -> set[type[errors.DeployError]]:
    return set(errors.DeployError.__subclasses__())


def test_every_class_has_an_exit_code_of_its_own() -> None:
    codes = [error.exit_code for error in subclasses()]
    assert len(set(codes)) == len(codes)
    assert not set(codes) & {0, 1, 2, 130}


def test_every_class_is_listed_and_drawn() -> None:
    assert set(errors.EXIT_CODES) == subclasses()
    for error in subclasses():
        assert f"{error.__name__:<16}  {error.exit_code:>5}".replace(" ", "") in (errors.__doc__ or "").replace(
            " ", ""
        )
