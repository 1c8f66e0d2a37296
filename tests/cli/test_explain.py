"""`deploy explain`: a page for each error, and a line that names it below every message."""

import re

import pytest
from repository import REPOSITORY as ROOT

from pipeline.cli.explain import page, run
from pipeline.errors import EXIT_CODES, DeployError, RecipeError

HEADINGS = ["What happened", "Why", "What to do"]


@pytest.mark.parametrize("error", EXIT_CODES, ids=lambda error: error.__name__)
def test_each_error_has_its_page(error: type[DeployError]) -> None:
    title, *rest = page(error).read_text().splitlines()
    assert title == f"# {error.exit_code} {error.__name__}: {error.meaning}"
    assert re.findall(r"^## (.+)$", "\n".join(rest), re.MULTILINE) == HEADINGS
    index = (ROOT / "docs" / "errors" / "index.md").read_text()
    assert f"| {error.exit_code} | [{error.__name__}]({page(error).name}) | {error.meaning} |" in index


def test_each_page_has_its_error() -> None:
    names = {path.name for path in (ROOT / "docs" / "errors").iterdir()}
    assert names == {page(error).name for error in EXIT_CODES} | {"index.md"}


@pytest.mark.parametrize("what", ["11", "GateUndecided", "gateundecided"])
def test_an_error_is_explained_by_code_and_by_name(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(what)
    shown = capsys.readouterr().out
    assert all(f"## {heading}" in shown for heading in HEADINGS)
    assert "--undecided package" in shown
    assert "](" not in shown


def test_without_an_error_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    run(None)
    shown = capsys.readouterr().out
    assert all(f"{error.exit_code}  {error.__name__}" in shown for error in EXIT_CODES)


@pytest.mark.parametrize("what", ["0", "99", "011", "Gate", "../errors/index"])
def test_what_is_no_error_is_refused_with_all_there_are(what: str) -> None:
    with pytest.raises(RecipeError, match=r"is neither an error nor an exit code\. Known:\n +3  RecipeError"):
        run(what)
