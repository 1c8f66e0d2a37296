"""Weights on a full disk are an error like any other's."""

import errno
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from pipeline.weights_file import save_weights


def test_what_is_written_is_read(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 1)
    save_weights(network, tmp_path / "w.safetensors", metadata={"a": "b"})
    assert load_file(tmp_path / "w.safetensors").keys() == network.state_dict().keys()


def test_a_full_disk_is_an_oserror_with_its_number() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        save_weights(nn.Linear(1000, 1000), Path("/dev/full"))
    assert caught.value.errno == errno.ENOSPC


def test_a_folder_that_is_not_there_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        save_weights(nn.Linear(2, 2), tmp_path / "gone" / "w.safetensors")
    assert caught.value.errno == errno.ENOENT
