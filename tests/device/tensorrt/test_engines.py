"""What an engine's place in the cache depends on, and sessions of engines for whoever opens an artifact."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_server import images, python
from tiny_cuda import library
from tiny_tensorrt import VERSION, Device, answers, tiny_device, write_tiny_model

from targets.device.errors import SessionError
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.variant import FP16, fallback, rivals
from targets.device.nvidia.machine import Machine
from targets.device.tensorrt.engines import KEY_LETTERS, MAX_BATCH, dla_core_of, key_of, max_batch_of
from targets.device.tensorrt.passport import Passport

__all__ = ["library"]
ORIN = Machine(VERSION, "12.6", "8.7", "Orin", 14, "linux/arm64", "36.4.3", "", 8 << 30)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def gpu(tmp_path: Path, library: Path) -> Device:
    return tiny_device(tmp_path / "device", library)


@pytest.mark.parametrize("name", [field.name for field in fields(Machine) if field.name != "memory_bytes"])
def test_everything_of_the_machine_that_a_passport_names_makes_another_engine(manifest: Manifest, name: str) -> None:
    assert name in {field.name for field in fields(Passport)}
    value = getattr(ORIN, name)
    other: Any = value + 1 if isinstance(value, int) else value + ".1"
    key = key_of(manifest, ORIN)
    assert len(key) == KEY_LETTERS
    assert key_of(manifest, replace(ORIN, **{name: other})) != key


def test_so_does_everything_that_was_asked_for_and_nothing_else(manifest: Manifest) -> None:
    key = key_of(manifest, ORIN)
    different = [
        replace(manifest, model_sha256="0" * 64),
        replace(manifest, precision="fp16"),
        replace(manifest, session_options={"max_batch": 4}),
        replace(manifest, session_options={**manifest.session_options, "dla_core": 0}),
    ]
    assert len({key_of(each, ORIN) for each in different} | {key}) == 5
    assert key_of(manifest, replace(ORIN, memory_bytes=1)) == key
    assert key_of(replace(manifest, version="0.2.0", tolerance=0.5), ORIN) == key


def test_options_are_read_or_refused(manifest: Manifest) -> None:
    bare = replace(manifest, session_options={})
    assert (max_batch_of(bare), dla_core_of(bare)) == (MAX_BATCH, None)
    with pytest.raises(SessionError, match="max_batch is 0; expected an integer of at least 1"):
        max_batch_of(replace(manifest, session_options={"max_batch": 0}))
    with pytest.raises(SessionError, match="dla_core is 'one'"):
        dla_core_of(replace(manifest, session_options={"dla_core": "one"}))


@pytest.mark.slow
def test_whoever_opens_an_artifact_of_tensorrt_gets_its_engine(
    gpu: Device, manifest: Manifest, tmp_path: Path
) -> None:
    """As `selftest` does: built at first, found afterwards."""
    np.save(tmp_path / "images.npy", images(20))
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from targets.device.model.manifest import read_manifest\n"
        "from targets.device.open_session import open_session\n"
        f"folder = Path({str(tmp_path / 'model')!r})\n"
        "with open_session(folder, read_manifest(folder)) as session:\n"
        f"    np.save({str(tmp_path / 'answers.npy')!r}, session.infer(np.load({str(tmp_path / 'images.npy')!r})))\n"
        "    print(session.runtime, session.instruction_set, session.input_shape, session.classes)\n"
    )
    for _ in range(2):
        done = python("-c", code, **gpu.environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"tensorrt {VERSION} sm_87 (3, 8, 8) 4\n"
        np.testing.assert_allclose(
            np.load(tmp_path / "answers.npy"), answers(tmp_path / "model", images(20)), atol=1e-5
        )
    assert len(gpu.entries) == 1
    done = python("-m", "targets.device", "selftest", MODEL_FOLDER=tmp_path / "model", **gpu.environment)
    found = json.loads(done.stdout)
    assert (done.returncode, found["runtime"], found["instruction_set"]) == (0, f"tensorrt {VERSION}", "sm_87")


def test_the_selftest_says_what_is_missing(gpu: Device, manifest: Manifest, tmp_path: Path) -> None:
    settings = {**gpu.environment, "PYTHONPATH": "", "MODEL_FOLDER": tmp_path / "model"}
    done = python("-m", "targets.device", "selftest", **settings)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: TensorRT cannot be imported")


def test_a_manifest_of_another_network_is_refused(gpu: Device, manifest: Manifest, tmp_path: Path) -> None:
    replace(manifest, classes=("a", "b")).write(tmp_path / "model")
    done = python("-m", "targets.device", "selftest", MODEL_FOLDER=tmp_path / "model", **gpu.environment)
    assert done.returncode == 1
    assert "and 4 classes; its manifest says [3, 8, 8] and 2" in done.stderr


@pytest.mark.slow
def test_an_engine_is_measured_as_any_model_is(gpu: Device, manifest: Manifest, tmp_path: Path) -> None:
    settings = {**gpu.environment, "MODEL_FOLDER": tmp_path / "model"}
    done = python("-m", "targets.device", "bench", "0.2", **settings)
    found = json.loads(done.stdout)
    assert found["latency_ms"]["p50"] > 0
    # The C library's clock: half a millisecond for each event.
    assert found["gpu_ms"]["p50"] == 1.5
    done = python("-m", "targets.device", "bench", **{**settings, "PYTHONPATH": ""})
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: TensorRT cannot be imported")


def test_an_fp16_model_that_is_another_one_takes_nobodys_place(manifest: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    write_tiny_model(folder, fallback="fp16")
    main, half = read_manifest(folder), read_manifest(folder / FP16)
    chosen = fallback(folder, main, "it failed")
    assert chosen is not None
    assert (chosen.variant, chosen.manifest) == (FP16, half)
    assert chosen.reason == "instead of int8, as the recipe allows: it failed"
    assert fallback(tmp_path / "model", manifest, "it failed") is None
    for changes, message in (
        ({"classes": ("a", "b", "c", "e")}, "does not belong to the main model: classes differ"),
        ({"precision": "int8"}, "is a model for tensorrt in int8, not for tensorrt in fp16"),
        ({"runtime": "onnxruntime"}, "is a model for onnxruntime in fp16, not for"),
    ):
        replace(half, **changes).write(folder / FP16)
        with pytest.raises(ManifestError, match=message):
            fallback(folder, main, "it failed")


def test_rivals_are_the_other_precisions_of_the_same_model_the_smallest_first(
    manifest: Manifest, tmp_path: Path
) -> None:
    folder = tmp_path / "all"
    main = write_tiny_model(folder, fallback="fastest")
    found = rivals(folder, main)
    assert [(each.variant, each.manifest.precision) for each in found] == [("fp16", "fp16"), ("fp32", "fp32")]
    assert rivals(tmp_path / "model", manifest) == []
    replace(found[1].manifest, precision="fp16").write(folder / "fp32")
    with pytest.raises(ManifestError, match="is a model for tensorrt in fp16, not for tensorrt in fp32"):
        rivals(folder, main)
