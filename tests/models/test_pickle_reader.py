"""What lies beside the weights is read over, whatever class it is of; what would run code is refused and does not."""

import argparse
import collections
import datetime
import os
import pathlib
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.models.pickle_reader import Inert, load_inert


class Settings:
    """Of the user's own."""

    def __init__(self) -> None:
        self.rate = 0.1


class Call:
    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.asked = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.asked


EXTRAS: dict[str, object] = {
    "history": collections.defaultdict(list, loss=[1.0, 0.5]),
    "confusion": np.eye(10),
    "objects": np.array([Settings()], dtype=object),
    "out": pathlib.PurePosixPath("runs/1"),
    "args": argparse.Namespace(out=pathlib.PurePosixPath("runs/1")),
    "when": datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "settings": Settings(),
    "counts": collections.Counter("aab"),
    "kinds": {1, 2},
    "best": np.float32(0.9),
    "numbers": (1j, frozenset([3]), bytearray(b"x"), range(3)),
    "optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]),
    "rng": torch.get_rng_state(),
    "function": os.path.join,
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", [name for name in EXTRAS if name != "function"])
def test_the_weights_are_read_and_the_rest_is_made_nothing_of(name: str, legacy: bool, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half().state_dict()
    torch.save(
        {"state_dict": state, "free": nn.Parameter(torch.ones(3)), name: EXTRAS[name]},
        tmp_path / "saved.pth",
        _use_new_zipfile_serialization=not legacy,
    )
    loaded: Any = load_inert(tmp_path / "saved.pth")
    assert all(torch.equal(loaded["state_dict"][key], value) for key, value in state.items())
    assert torch.equal(loaded["free"], torch.ones(3))


def test_an_object_of_another_class_says_which(tmp_path: Path) -> None:
    torch.save(Settings(), tmp_path / "saved.pth")
    loaded = load_inert(tmp_path / "saved.pth")
    assert isinstance(loaded, Inert)
    assert loaded.full_name == f"{__name__}.Settings"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        Call(os.system, "touch it-ran"),
        Call(subprocess.call, ["touch", "it-ran"]),
        Call(eval, "open('it-ran', 'w')"),
        Call(exec, "open('it-ran', 'w')"),
        Call(__import__, "antigravity"),
        Call(torch.hub.load, "a/b", "c"),
        Call(torch.load, "other.pth"),
    ],
)
def test_what_would_run_code_is_refused_and_does_not_run(
    call: Call, legacy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1), "x": call}, "evil.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match=r"evil\.pth tries to run code .* it calls [\w.]+\. Refused"):
        load_inert(Path("evil.pth"))
    assert not Path("it-ran").exists()


def test_a_function_of_a_library_that_no_list_knows_is_not_called(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "x": Call(record, "argument")}, tmp_path / "saved.pth")
    loaded: Any = load_inert(tmp_path / "saved.pth")
    assert torch.equal(loaded["w"], torch.ones(1))
    assert RECORDED == []


RECORDED: list[object] = []


def record(argument: object) -> str:
    RECORDED.append(argument)
    return "called"
