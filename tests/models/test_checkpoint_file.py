"""What a checkpoint file holds: which weights, what beside them, and what it is where it is none."""

import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from pipeline.errors import CheckpointError
from pipeline.models.checkpoint_file import read_saved, read_state
from pipeline.models.recognition import checked_values

State = dict[str, Tensor]


@pytest.fixture
def good() -> State:
    return {"conv1.weight": torch.ones(2, 3, 3, 3), "bn1.weight": torch.ones(2), "fc.weight": torch.ones(4, 2)}


@pytest.fixture
def worse(good: State) -> State:
    return {name: value + 1 for name, value in good.items()}


def prefixed(state: State, prefix: str = "module.") -> State:
    return {prefix + name: value for name, value in state.items()}


PAIRS: dict[str, tuple[Callable[[State, State], object], str]] = {
    "timm": (lambda raw, ema: {"epoch": 9, "state_dict": raw, "state_dict_ema": ema}, "state_dict_ema"),
    "torchvision": (
        lambda raw, ema: {"model": raw, "model_ema": {"n_averaged": torch.tensor(5), **prefixed(ema)}, "args": None},
        "model_ema",
    ),
    "flat and ema": (lambda raw, ema: {**raw, "ema": {"decay": 0.999, "shadow": ema}}, "ema"),
    "swa": (lambda raw, ema: {"state_dict": prefixed(raw), "swa_state_dict": ema}, "swa_state_dict"),
    "averaged model": (lambda raw, ema: {"net": raw, "averaged_model": {"state_dict": ema}}, "averaged_model"),
    "compiled": (lambda raw, ema: {"model": prefixed(raw, "_orig_mod."), "ema_state_dict": ema}, "ema_state_dict"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_weights_and_their_moving_average_are_both_found(name: str, good: State, worse: State, tmp_path: Path) -> None:
    save, place = PAIRS[name]
    torch.save(save(worse, good), tmp_path / "saved.pth")
    saved = read_saved(tmp_path / "saved.pth")
    assert set(saved.weights) == {"raw", "ema"}
    assert saved.places["ema"] == place
    raw, ema = (sorted(float(value.flatten()[0]) for value in saved.weights[kind].values()) for kind in ("raw", "ema"))
    assert (raw, ema) == ([2.0] * 3, [1.0] * 3)
    assert read_state(tmp_path / "saved.pth").keys() == saved.weights["raw"].keys()


def test_what_is_no_second_copy_of_the_network_is_passed_over(good: State, tmp_path: Path) -> None:
    torch.save({"state_dict": good, "state_dict_ema": {"conv1.weight": torch.ones(1)}}, tmp_path / "saved.pth")
    saved = read_saved(tmp_path / "saved.pth")
    assert set(saved.weights) == {"raw"}
    assert saved.passed_over == ("state_dict_ema",)


def test_the_average_alone_will_do(good: State, tmp_path: Path) -> None:
    torch.save({"epoch": 3, "ema": {"module": good}}, tmp_path / "saved.pth")
    assert read_saved(tmp_path / "saved.pth").places == {"ema": "ema"}


def test_the_counter_of_an_averaged_model_is_no_weight(good: State, tmp_path: Path) -> None:
    torch.save(OrderedDict([("n_averaged", torch.tensor(7)), *prefixed(good).items()]), tmp_path / "saved.pth")
    assert read_state(tmp_path / "saved.pth").keys() == prefixed(good).keys()


@pytest.mark.parametrize(
    ("key", "value", "stated"),
    [
        ("best_prec1", 91.78, 0.9178),
        ("acc1", torch.tensor(76.13), 0.7613),
        ("val_accuracy", 0.93, 0.93),
        ("best_acc", 55, 0.55),
        ("best_prec1", -1.0, None),
        ("accuracy", 930, None),
        ("accumulated", 0.5, None),
        ("acc", float("nan"), None),
        ("best_top1", "91", None),
        ("accuracy", True, None),
        ("acc1", torch.empty((), device="meta"), None),
        ("batches", torch.empty((), device="meta"), None),
    ],
)
def test_an_accuracy_beside_the_weights_is_what_the_file_states(
    key: str, value: object, stated: float | None, tmp_path: Path
) -> None:
    torch.save({"state_dict": {"fc.weight": torch.ones(2, 2)}, key: value}, tmp_path / "a.pth")
    found = read_saved(tmp_path / "a.pth").stated
    assert (found is None) == (stated is None)
    if found is not None and stated is not None:
        assert found[0] == key
        assert found[1] == pytest.approx(stated)


def test_what_lies_beside_the_weights_is_listed(good: State, tmp_path: Path) -> None:
    torch.save(
        {"model": {"state_dict": good}, "epoch": 3, "confusion": np.eye(3), "optimizer": {}}, tmp_path / "s.pth"
    )
    assert read_saved(tmp_path / "s.pth").passed_over == ("confusion", "epoch", "optimizer")


def test_a_record_that_contains_itself_ends(tmp_path: Path) -> None:
    record: dict[str, Any] = {"epoch": 3}
    record["model"] = {"net": record}
    torch.save(record, tmp_path / "saved.pth")
    with pytest.raises(CheckpointError, match="contains itself"):
        read_saved(tmp_path / "saved.pth")


@pytest.mark.parametrize("suffix", [".pth", ".bin", ""])
def test_safetensors_are_known_by_their_content(suffix: str, good: State, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(good, tmp_path / f"weights{suffix}")
    assert read_state(tmp_path / f"weights{suffix}").keys() == good.keys()


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="is not a regular file"):
            read_saved(path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(CheckpointError, match="a folder, a TensorFlow SavedModel"):
        read_saved(tmp_path)


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"{}")
    return path


def onnx_model(path: Path) -> Path:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, producer_name="pytorch"), path)
    return path


def arrays(path: Path) -> Path:
    np.savez(path, weight=np.ones(3))
    return path


def bytes_in(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["", ".pth"])
@pytest.mark.parametrize(
    ("name", "make", "kind"),
    [
        ("net.onnx", onnx_model, "an ONNX model"),
        ("net.npz", arrays, "NumPy arrays"),
        (
            "net.keras",
            lambda path: archive(path, "metadata.json", "config.json", "model.weights.h5"),
            "a Keras archive",
        ),
        ("net.pt2", lambda path: archive(path, "net/models/model.json", "net/version"), "torch.export"),
        ("net.h5", lambda path: bytes_in(path, b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
        ("net.gguf", lambda path: bytes_in(path, b"GGUF" + bytes(99)), "a GGUF file"),
    ],
)
def test_other_formats_are_named_by_their_content_with_the_way_in(
    name: str, make: Callable[[Path], Path], kind: str, suffix: str, tmp_path: Path
) -> None:
    source = make(tmp_path / name)
    source = source.rename(tmp_path / f"{name}{suffix}")
    with pytest.raises(CheckpointError, match=rf"is .*{kind}.*torch\.save\(model\.state_dict\(\)"):
        read_saved(source)


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/data.pkl", bytes(50_000_000))
    with pytest.raises(CheckpointError, match=r"is compressed, which torch\.save never does"):
        read_saved(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(3).to_sparse(), "sparse"),
        (torch.ones(3, device="meta"), "no values"),
    ],
)
def test_tensors_that_hold_no_plain_values_are_named(value: Tensor, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"conv1\.weight .*{message}"):
        checked_values({"conv1.weight": value})
