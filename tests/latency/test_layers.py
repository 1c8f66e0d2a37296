"""Every node of the optimized graph belongs to a layer."""

from pathlib import Path

import onnx
import pytest
from tiny_networks import network_of

from pipeline.artifacts import Checkpoint, Dialect
from pipeline.latency.layers import owner_of, owners
from pipeline.latency.profile import subject_of
from pipeline.latency.sampling_plan import Subject
from pipeline.models.checkpoint import save_network
from pipeline.models.zoo import residual
from targets.dialects.write import write_dialect
from targets.runtimes.onnxruntime import layer_times
from targets.runtimes.onnxruntime.layer_times import time_nodes
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import find_target

pytestmark = pytest.mark.slow

BASIC = residual(depths=(1, 2), stage_widths=(16, 32), classes=("a", "b", "c"), input_size=(16, 16))
OPTIONS = OnnxRuntimeCpu().session_options(find_target("cpu"), threads=1)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("network")
    save_network(network_of(BASIC), BASIC, folder)
    return subject_of(Checkpoint(folder=folder), multiple=16, weight_bits=8)


def test_layers_of_one_shape_are_one_and_what_follows_a_layer_is_part_of_it(subject: Subject) -> None:
    shapes = subject.shapes
    assert shapes["conv1"] == "3x3/1 16x16 3>16 Relu"
    assert shapes["layer1.0.conv2"] == "3x3/1 16x16 16>16 Add Relu"
    assert shapes["layer2.0.conv1"] == "3x3/2 16x16 16>32 Relu"
    assert shapes["layer2.0.downsample.0"] == "1x1/2 16x16 16>32"
    assert shapes["layer2.1.conv2"] == shapes["layer2.0.conv2"] == "3x3/1 8x8 32>32 Add Relu"
    assert shapes["fc"] == "32>3 GlobalAveragePool"


@pytest.mark.parametrize("dialect", [Dialect.FLOAT, Dialect.ONNXRUNTIME])
def test_what_the_runtime_runs_is_told_apart(
    dialect: Dialect, subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_times, "MODEL_SECONDS", 0.05)
    model = write_dialect(subject.marked, subject.quantization, dialect)
    onnx.save(model, tmp_path / "model.onnx")
    known = owners(model)
    (nodes,) = time_nodes([tmp_path / "model.onnx"], options=OPTIONS)
    named = [owner_of(node.name, known) for node in nodes]
    assert {name for name in named if name is not None} == set(subject.layers)
    unknown = [node.name for node, name in zip(nodes, named, strict=True) if name is None]
    assert len(unknown) <= 3  # quantizing the input, changes of layout
