"""Write safetensors files; a full disk raises a normal `OSError`."""

import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_weights(network: nn.Module, path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the state dict of `network` to `path`; raise `OSError` if that fails."""
    weights = {name: value.detach().clone().contiguous() for name, value in network.state_dict().items()}
    try:
        save_file(weights, path, metadata=None if metadata is None else dict(metadata))
    except SafetensorError as error:
        found = OS_ERROR.search(str(error))
        number = int(found[1]) if found is not None else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
