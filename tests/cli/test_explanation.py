"""A target in words: every fact of its file is there, and what is unproven is said."""

from dataclasses import asdict, replace

import pytest

from pipeline.artifacts import Dialect, Place
from pipeline.cli.targets import DIALECTS, PLACES, explain
from targets.base_images import known_bases
from targets.target import Target, catalogue, find_target

# What is said in other words, and what one word cannot be looked for.
IN_OTHER_WORDS = {"name", "description", "runtime", "gpu", "base_image"}
GPU_IN_OTHER_WORDS = {"dla_cores", "int8", "engine_build"}


def values(fact: object) -> list[str]:
    return [str(value) for value in fact] if isinstance(fact, tuple) else [str(fact)]


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_every_fact_of_a_target_is_said(target: Target) -> None:
    said = "\n".join(sentence for _, sentence in explain(target))
    facts = {key: value for key, value in vars(target).items() if key not in IN_OTHER_WORDS}
    if target.gpu is not None:
        facts |= {key: value for key, value in vars(target.gpu).items() if key not in GPU_IN_OTHER_WORDS}
    for key, fact in facts.items():
        for value in values(fact):
            assert value in said, key
    assert known_bases()[target.base_image].tag in said
    assert all(sentence.endswith(".") for _, sentence in explain(target))


@pytest.mark.parametrize("target", catalogue(), ids=lambda target: target.name)
def test_labels_are_said_once_and_fit_their_column(target: Target) -> None:
    from pipeline.cli.targets import LABEL_WIDTH

    labels = [label for label, _ in explain(target)]
    assert len(labels) == len(set(labels))
    assert max(map(len, labels)) + 2 < LABEL_WIDTH


def test_every_dialect_and_place_has_a_sentence() -> None:
    assert set(DIALECTS) == set(Dialect)
    assert set(PLACES) == set(Place)


def test_what_is_unproven_without_the_device_is_said() -> None:
    jetson = dict(explain(find_target("jetson")))
    assert "which layers really run in int8" in jetson["unproven without"]
    assert "builds and proves its engine where it is started" in jetson["this version"]
    assert "simulated: ONNX Runtime stands in" in jetson["can be proven"]
    assert "speed" in dict(explain(find_target("cpu-arm64")))["unproven without"]
    assert dict(explain(find_target("cpu")))["this version"] == "builds, proves and packages it."


def test_the_dla_of_a_family_is_said_with_those_that_have_none() -> None:
    dla = dict(explain(find_target("orin-jp61")))["DLA"]
    assert dla.startswith("2 at most; none on Orin Nano 8GB, Orin Nano 4GB. They run fp16; int8")
    assert "TensorRT 10.16.2.10" in dict(explain(find_target("orin-jp72")))["DLA"]


def test_hardware_without_int8_and_an_unknown_base_image_are_said() -> None:
    orin = find_target("orin-jp61")
    assert orin.gpu is not None
    own = replace(orin, base_image="gone", gpu=replace(orin.gpu, int8=False, memory_gib=(8, 8)))
    said = dict(explain(own))
    assert said["int8"] == "Not supported by the hardware: fp16 is the fastest."
    assert said["memory"] == "8 GiB, shared by CPU and GPU."
    assert "gone, which is not in docker/images.toml" in said["base image"]
    assert asdict(own)["gpu"]["int8"] is False
