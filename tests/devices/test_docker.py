"""What a device's Docker is told; what it does with it is for the tests with real hosts."""

import pytest

from pipeline.devices.docker import last_message_in, message_in, proof_words
from pipeline.package.service_files import Form, Service, emit
from targets.target import find_target


def words_for(target: str) -> list[str]:
    return proof_words("sha256:0", "model:0.1.0-x", find_target(target), folder="/w/jobs/1", measure=3)


@pytest.mark.parametrize("target", ["cpu", "orin-jp61", "gpu-ada"])
def test_a_proof_has_neither_network_nor_rights(target: str) -> None:
    words = words_for(target)
    line = " ".join(words)
    for expected in (
        "--read-only",
        "--cap-drop ALL",
        "--security-opt no-new-privileges:true",
        "--network none",
        "--env MEASURE_SECONDS=3",
        "--volume /w/jobs/1/out:/out",
        "--volume /w/jobs/1/sent/shard.zip:/shard.zip:ro",
    ):
        assert expected in line
    assert words[-4:] == ["sha256:0", "prove", "/out", "/shard.zip"]


def test_a_jetson_is_given_by_its_runtime_and_a_card_by_dockers_own_option() -> None:
    assert "--runtime nvidia" in " ".join(words_for("orin-jp61"))
    assert "--gpus all" in " ".join(words_for("gpu-ada"))
    assert not {"--runtime", "--gpus"} & set(words_for("cpu"))


def test_the_engine_that_is_proven_is_the_one_that_is_served() -> None:
    """The volume that `deploy emit` writes is the one that the proof fills."""
    (volume,) = (word for word in words_for("orin-jp61") if word.endswith(":/var/cache/edge-deploy"))
    assert volume.partition(":")[0] in emit(Service(image="model:0.1.0-x", with_gpu=True), Form.COMPOSE)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"level": "info", "message": "starting", "reason": "opening the model"}', "opening the model"),
        ('{"message": "proven"}', "proven"),
        ("Traceback (most recent call last):", "Traceback (most recent call last):"),
        ("[1, 2]", ""),
        ("", ""),
    ],
)
def test_lines_of_the_log(line: str, words: str) -> None:
    assert message_in(line) == words


def test_the_last_words_count() -> None:
    assert last_message_in('{"reason": "first"}\n{"reason": "no GPU"}\n[]\n') == "no GPU"
    assert last_message_in("\n") == "it printed nothing"
