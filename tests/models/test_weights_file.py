"""Weights on a full disk are an error like any other's."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import nn

from pipeline.models.weights_file import save_weights


def test_what_is_written_is_read(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 4, 1)
    save_weights(network, tmp_path / "w.safetensors", metadata={"a": "b"})
    assert load_file(tmp_path / "w.safetensors").keys() == network.state_dict().keys()


@pytest.mark.slow
def test_a_disk_that_takes_no_more_is_an_oserror_with_its_number(tmp_path: Path) -> None:
    code = (
        "import resource, torch\n"
        "from pathlib import Path\n"
        "from pipeline.models.weights_file import save_weights\n"
        "network = torch.nn.Linear(1000, 1000)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    save_weights(network, Path('w.safetensors'))\n"
        "except OSError as error:\n"
        "    print(error.errno)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr


def test_a_folder_that_is_not_there_is_one_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        save_weights(nn.Linear(2, 2), tmp_path / "gone" / "w.safetensors")
    assert caught.value.errno == errno.ENOENT
