import argparse
import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_statistics import with_random_statistics
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.errors import CheckpointError
from pipeline.models.checkpoint import build_network, load_checkpoint, save_network
from pipeline.models.cost import cost_of
from pipeline.models.custom import call_factory

State = dict[str, Tensor]

FACTORY = """
import torch
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def broken():
    raise RuntimeError("no such weights")

def number():
    return 3

def picture():
    return nn.Conv2d(3, 8, 3)
"""


def load(source: Path, folder: Path, factory: str | None = None, size: tuple[int, int] | None = None) -> Checkpoint:
    load_checkpoint(source, factory=factory, classes=(), input_size=size, folder=folder)
    return Checkpoint(folder=folder)


@pytest.fixture
def state(tiny_resnet: nn.Module) -> State:
    """As others save it: an option-A shortcut holds no tensor."""
    return {name: value for name, value in tiny_resnet.state_dict().items() if "downsample" not in name}


@pytest.mark.parametrize(
    "container",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "best_prec1": np.float64(91.7), "optimizer": {"state": {}}},
        lambda state: {"model_state_dict": state, "state_dict_ema": {"conv1.weight": torch.ones(1)}},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, output_dir="."), "model_ema": {}},
        lambda state: {"model": {"state_dict": {f"module.{name}": value for name, value in state.items()}}},
        lambda state: {"state_dict": {f"model.{n}": v for n, v in state.items()}, "pytorch-lightning_version": "2.5"},
        lambda state: {**state, "epoch": 3},
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_containers(
    container: Callable[[State], object], legacy: bool, state: State, tiny_resnet: nn.Module, tmp_path: Path
) -> None:
    source = tmp_path / "weights.pth"
    torch.save(container(state), source, _use_new_zipfile_serialization=not legacy)
    network = build_network(load(source, tmp_path / "out"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), tiny_resnet(images))
    assert not network.training


def test_safetensors(state: State, tiny_resnet: nn.Module, tmp_path: Path) -> None:
    save_file(state, tmp_path / "weights.safetensors")
    network = build_network(load(tmp_path / "weights.safetensors", tmp_path / "out"))
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), tiny_resnet(images))


def test_folder_holds_plain_facts(tiny_checkpoint: Checkpoint, tiny_resnet: nn.Module) -> None:
    assert sorted(path.name for path in tiny_checkpoint.folder.iterdir()) == [
        "architecture.json",
        "cost.json",
        "weights.safetensors",
    ]
    assert tiny_checkpoint.cost == cost_of(tiny_resnet, (3, 32, 32))
    assert tiny_checkpoint.architecture.widths["layer3.0.downsample.0"] == 32
    assert json.loads((tiny_checkpoint.folder / "architecture.json").read_text())["name"] == "resnet8"


def test_same_network_same_bytes(tiny_architecture: Architecture, tiny_resnet: nn.Module, tmp_path: Path) -> None:
    save_network(tiny_resnet, tiny_architecture, tmp_path / "a")
    save_network(tiny_resnet, tiny_architecture, tmp_path / "b")
    assert (tmp_path / "a/weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_wants_to_run_code_is_refused(legacy: bool, state: State, tmp_path: Path) -> None:
    source, proof = tmp_path / "evil.pth", tmp_path / "it-ran"
    torch.save(
        {"state_dict": state, "x": Malicious(f"touch {proof}")}, source, _use_new_zipfile_serialization=not legacy
    )
    with pytest.raises(CheckpointError, match=r"evil\.pth tries to run code .* it calls (posix|nt)\.system\. Refused"):
        load(source, tmp_path / "out")
    assert not proof.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_a_plain_pickle_that_wants_to_run_code_is_refused(protocol: int, tmp_path: Path) -> None:
    source, proof = tmp_path / "evil.pt", tmp_path / "it-ran"
    source.write_bytes(pickle.dumps(Malicious(f"touch {proof}"), protocol))
    with pytest.raises(CheckpointError, match=r"run code .*Refused: only plain weights are read"):
        load(source, tmp_path / "out")
    assert not proof.exists()


def test_a_whole_pickled_model_is_refused_with_the_cure(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 1)), tmp_path / "model.pth")
    with pytest.raises(
        CheckpointError, match=r"Sequential.*Refused.*save torch\.save\(model\.state_dict\(\).*--model package"
    ):
        load(tmp_path / "model.pth", tmp_path / "out")


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_the_cure(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.Conv2d(3, 4, 1), torch.ones(1, 3, 4, 4))  # type: ignore[no-untyped-call]
    program.save(str(tmp_path / "script.pt"))
    with pytest.raises(
        CheckpointError, match=r"TorchScript archive, a program, .* save torch\.save\(model\.state_dict\(\)"
    ):
        load(tmp_path / "script.pt", tmp_path / "out")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.999, 0.9, 0.5, 0.1, 0.001])
def test_a_truncated_file(share: float, legacy: bool, state: State, tmp_path: Path) -> None:
    source = tmp_path / "weights.pth"
    torch.save(state, source, _use_new_zipfile_serialization=not legacy)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"weights\.pth is (truncated|not a checkpoint: .* damaged)"):
        load(source, tmp_path / "out")


@pytest.mark.parametrize("share", [0.99, 0.1, 0.001])
def test_a_truncated_safetensors_file(share: float, state: State, tmp_path: Path) -> None:
    source = tmp_path / "weights.safetensors"
    save_file(state, source)
    whole = source.read_bytes()
    source.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is damaged or not a safetensors file"):
        load(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\)"),
        (b"<!DOCTYPE html><html>not found</html>", "the download returned a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        (pickle.dumps([1, 2]), "a pickle that torch.save did not write"),
    ],
)
def test_files_of_other_kinds(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "file.pth", tmp_path / "out")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint .*nowhere\.pth does not exist"):
        load(tmp_path / "nowhere.pth", tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a folder"):
        load(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "contains a list, not a state dict"),
        ({"epoch": 3, "lr": 0.1}, r"has no named tensors \(found: epoch, lr\)"),
        ({"encoder.weight": torch.ones(3)}, r"weights\.pth: no ResNet in this file"),
    ],
)
def test_files_without_a_network(value: object, message: str, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "weights.pth", tmp_path / "out")


def test_wrong_class_count_names_the_file(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth: the network has 10 output classes, the dataset has 2"):
        load_checkpoint(
            tmp_path / "weights.pth", factory=None, classes=("cat", "dog"), input_size=None, folder=tmp_path / "out"
        )


@pytest.fixture
def factory_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's own in the working directory."""
    (tmp_path / "own_network.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_network", raising=False)
    return "own_network"


def test_a_network_of_the_users_own(factory_module: str, tmp_path: Path) -> None:
    network = with_random_statistics(call_factory(f"{factory_module}:small"), seed=5)
    torch.save({"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, "own.pth")
    checkpoint = load(Path("own.pth"), tmp_path / "out", factory="own_network:small", size=(16, 16))
    assert checkpoint.architecture.family == "custom"
    assert checkpoint.architecture.classes == ("0", "1", "2", "3")
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(build_network(checkpoint)(images), network(images))


def test_a_network_of_the_users_own_is_rebuilt_in_other_widths(factory_module: str, tmp_path: Path) -> None:
    network = with_random_statistics(call_factory(f"{factory_module}:small"), seed=5)
    torch.save(network.state_dict(), "own.pth")
    architecture = load(Path("own.pth"), tmp_path / "out", factory="own_network:small", size=(16, 16)).architecture
    narrow = nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Conv2d(5, 5, 3, groups=5, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    ).eval()  # fmt: skip
    save_network(narrow, architecture, tmp_path / "narrow")
    rebuilt = build_network(Checkpoint(folder=tmp_path / "narrow"))
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(rebuilt(images), narrow(images))
    assert Checkpoint(folder=tmp_path / "narrow").architecture.widths == {"0": 5, "3": 5}
    assert cost_of(rebuilt, (3, 16, 16)) == cost_of(narrow, (3, 16, 16))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("own_network:nothing", "own_network:nothing failed: AttributeError"),
        (
            "no_such_module_anywhere:small",
            "failed: ModuleNotFoundError: No module named 'no_such_module_anywhere'",
        ),
        ("own_network:broken", "failed: RuntimeError: no such weights"),
        ("own_network:number", "returned a int, not a torch.nn.Module"),
        ("own_network:small", r"9 tensors are missing \(0\.weight, .*and 10 tensors do not belong to it"),
        ("own_network:picture", r"8 tensors do not belong to it .*The factory own_network:picture must make"),
    ],
)
def test_faulty_factories(factory: str, message: str, factory_module: str, state: State, tmp_path: Path) -> None:
    torch.save({name: value for name, value in state.items() if "layer1" in name}, "weights.pth")
    with pytest.raises(CheckpointError, match=message):
        load(Path("weights.pth"), tmp_path / "out", factory=factory, size=(16, 16))


def test_a_network_without_logits(factory_module: str, tmp_path: Path) -> None:
    torch.save(nn.Conv2d(3, 8, 3).state_dict(), "weights.pth")
    with pytest.raises(
        CheckpointError, match=r"picture returns shape \(1, 8, 14, 14\); it must return one row of logits"
    ):
        load(Path("weights.pth"), tmp_path / "out", factory="own_network:picture", size=(16, 16))
    with pytest.raises(CheckpointError, match=r"does not accept an image \(1, 3, 2, 2\): RuntimeError"):
        load(Path("weights.pth"), tmp_path / "out", factory="own_network:picture", size=(2, 2))
    with pytest.raises(CheckpointError, match=r"input size of own_network:picture is unknown"):
        load(Path("weights.pth"), tmp_path / "out", factory="own_network:picture")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "right"), [("resnet20-12fca82f.th", 776), ("resnet56-4bfd9763.th", 789)])
def test_published_checkpoints_do_what_their_authors_measured(
    file: str, right: int, data_root: Path, tmp_path: Path
) -> None:
    network = build_network(load(data_root / "checkpoints" / file, tmp_path / "out"))
    folders = sorted((data_root / "cifar10-subset/val").iterdir())
    paths = [(path, label) for label, folder in enumerate(folders) for path in sorted(folder.iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in paths])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((torch.from_numpy(pixels).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        found = torch.cat([network(batch).argmax(1) for batch in torch.split(images, 128)])
    assert len(paths) == 846
    assert int((found == torch.tensor([label for _, label in paths])).sum()) == right
