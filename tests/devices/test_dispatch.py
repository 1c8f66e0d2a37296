"""Which of an image's models a device answered with, and who may have answered at all."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from device_server import device
from tiny_candidates import artifact
from tiny_cuda import library
from tiny_tensorrt import tiny_device, write_tiny_model
from whole_report import REPORT

from pipeline.artifacts import Place, Precision, Role, Verdict
from pipeline.devices.dispatch import _by_model, _judge, _model_of
from pipeline.errors import DataError
from pipeline.results import Judged
from pipeline.workspace.store import Folder
from targets.device.files import PREDICTIONS
from targets.device.model.manifest import read_manifest

__all__ = ["library"]


@pytest.mark.slow
def test_a_model_is_known_by_its_hash_and_its_precision(tmp_path: Path, library: Path) -> None:
    """fp16 and fp32 are built from the same file here, as before TensorRT 10.12."""
    model, out = tmp_path / "model", tmp_path / "out"
    write_tiny_model(model, fallback="fastest")
    assert read_manifest(model / "fp16").model_sha256 == read_manifest(model / "fp32").model_sha256
    gpu = tiny_device(tmp_path / "device", library, STAND_IN_SLOW=json.dumps({"int8": 500, "fp32": 500}))
    done = device("prove", str(out), MODEL_FOLDER=model, **gpu.environment)
    assert done.returncode == 0, done.stderr
    answers = Folder(path=out, digest="0", seconds=0.0, was_cached=True)
    found = replace(REPORT, max_drop_points=1.0)
    variants = [
        Judged(
            artifact=replace(artifact(precision), folder=model / precision, role=Role.RIVAL),
            answers=answers,
            report=replace(found, gate_looks=looks),
        )
        for looks, precision in ((2, Precision.FP16), (3, Precision.FP32))
    ]
    main = Judged(artifact=replace(artifact(), folder=model), answers=answers, report=found)
    models = _by_model([main, *variants])
    assert len(models) == 3
    assert _model_of(models, out / PREDICTIONS) == (model / "fp16", variants[0].report)
    judged = _judge(model / "shard.zip", models, out / PREDICTIONS)
    assert (judged.verdict, judged.place, judged.gate_looks) == (Verdict.PASS, Place.DEVICE, 2)
    without = _by_model([main, *variants[1:]])
    with pytest.raises(DataError, match=r"in fp16, which is not among those that were sent"):
        _model_of(without, out / PREDICTIONS)
    (out / "proof.json").write_text("[]")
    with pytest.raises(DataError, match=r"proof\.json does not say which precision it ran"):
        _model_of(models, out / PREDICTIONS)
