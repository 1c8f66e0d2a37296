"""The runtime's own profile of each node, many graphs in turn."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from pipeline.errors import CompileError
from targets.runtimes import timing
from targets.runtimes.onnxruntime import layer_times
from targets.runtimes.onnxruntime.layer_times import time_nodes
from targets.runtimes.onnxruntime.runtime import OnnxRuntimeCpu
from targets.target import find_target

OPTIONS = OnnxRuntimeCpu().session_options(find_target("cpu"), threads=1)


def written(path: Path, widths: tuple[int, ...]) -> Path:
    """A chain of 3x3 convolutions, each followed by a Sigmoid that is fused into it."""
    nodes, constants, before, inputs = [], [], "images", 3
    for index, width in enumerate(widths):
        weight = np.full((width, inputs, 3, 3), 0.01, np.float32)
        constants.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(
            helper.make_node("Conv", [before, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1])
        )
        nodes.append(helper.make_node("Sigmoid", [f"c{index}"], [f"s{index}"], name=f"sigmoid{index}"))
        before, inputs = f"s{index}", width
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "chain",
        [value("images", onnx.TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [value(before, onnx.TensorProto.FLOAT, ["batch", inputs, 32, 32])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_times, "MODEL_SECONDS", 0.1)


def test_every_node_is_named_in_the_order_it_runs_and_more_work_takes_longer(quick: None, tmp_path: Path) -> None:
    models = [written(tmp_path / "a.onnx", (16, 16, 16)), written(tmp_path / "b.onnx", (16, 256, 256))]
    shares: list[float] = []
    small, large = time_nodes(models, options=OPTIONS, report=shares.append)
    assert len(shares) >= timing.MIN_ROUNDS
    assert sum(shares) == pytest.approx(1)
    # What is fused is called by the tensor it makes.
    convolutions = [[node for node in nodes if node.name.startswith("s")] for nodes in (small, large)]
    assert [[node.name.removesuffix("_nchwc") for node in nodes] for nodes in convolutions] == [["s0", "s1", "s2"]] * 2
    assert all(node.microseconds >= 0 for node in (*small, *large))
    # 256 times the multiplications; no neighbor makes up for that.
    assert convolutions[1][2].microseconds > 5 * convolutions[0][2].microseconds


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_text("no model")
    with pytest.raises(CompileError, match=r"cannot open .*broken\.onnx"):
        time_nodes([tmp_path / "broken.onnx"], options=OPTIONS)


def test_the_faster_half_counts() -> None:
    assert layer_times._typical([3, 4, 900, 4, 800, 3]) == pytest.approx(10 / 3)
    assert layer_times._typical([7]) == 7


def test_nothing_is_left_in_the_working_folder(quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    time_nodes([written(tmp_path / "a.onnx", (8,))], options=OPTIONS)
    assert not list((tmp_path / "here").iterdir())
