"""What a device may build besides the engine of the main model, as the recipe says."""

from typing import Literal

Fallback = Literal["none", "fp16", "fastest"]
"""Nothing; fp16 where the main one, in int8, does not pass; every precision, of which the fastest is served."""
