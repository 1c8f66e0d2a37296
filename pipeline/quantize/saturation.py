"""The saturation-safe variant of a quantized network: the same weights and ranges on a grid of 7 bits.

x86 without VNNI adds two products of 8-bit numbers in 16 bits: 2 x 255 x 127 = 64,770 saturates, 2 x 255 x 63 = 32,130
never does. So what is measured of the variant on a CPU with VNNI holds on one without.
"""

from pathlib import Path
from typing import Final

from pipeline.artifacts import Checkpoint
from pipeline.models.checkpoint import build_network, save_network
from pipeline.quantize.network import requantized

WEIGHT_BITS: Final = 7


def derive(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the network of `checkpoint` and its `quantization.json` for 7-bit weights into `folder`."""
    save_network(build_network(checkpoint), checkpoint.architecture, folder)
    (folder / "quantization.json").write_text(requantized(checkpoint, weight_bits=WEIGHT_BITS).to_json())
