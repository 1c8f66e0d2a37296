"""Drawn images without people: edges, colors and shades of every scale, for checking a network."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

SHAPES = (2, 9)
"""Minimum, and exclusive maximum."""
LARGEST_BLUR = 0.12
"""Standard deviation, as a share of the shorter side."""


def draw_images(count: int, *, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3]: ellipses and bars in random colors, partly blurred; the same for the same seed."""
    generator = np.random.default_rng(seed)
    return np.stack([np.asarray(_drawing(height, width, generator)) for _ in range(count)])


def _drawing(height: int, width: int, generator: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (width, height), _color(generator))
    pen = ImageDraw.Draw(image)
    for _ in range(int(generator.integers(*SHAPES))):
        center = generator.uniform(0, 1, size=2) * (width, height)
        reach = generator.uniform(0.05, 0.5, size=2) * (width, height)
        box = (*(center - reach).tolist(), *(center + reach).tolist())
        if generator.random() < 0.7:
            pen.ellipse(box, fill=_color(generator))
        else:
            pen.rectangle(box, fill=_color(generator))
    blur = float(generator.uniform(0, LARGEST_BLUR)) * min(height, width)
    return image.filter(ImageFilter.GaussianBlur(blur))


def _color(generator: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = generator.integers(0, 256, size=3).tolist()
    return red, green, blue
