"""The model's input, from one of the three inputs that a request may have; checked before it is computed."""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import numpy as np
from numpy.typing import NDArray

from targets.device.model.image_files import BYTES_PER_PIXEL, WORK, ImageError, Opened, load_image, open_image
from targets.device.model.manifest import Manifest
from targets.device.model.preprocess import normalize, preprocess, resize_bytes
from targets.device.server.image_memory import Allowance
from targets.device.server.protocol import InferRequest
from targets.device.server.tensors import NAMES, RequestError, shown

IMAGES, PIXELS, ENCODED = "images", "pixels", "encoded"
_DATATYPES = {IMAGES: "FP32", PIXELS: "UINT8", ENCODED: "BYTES"}


def describe_inputs(manifest: Manifest) -> List[Dict[str, object]]:
    """Return the inputs for the model's metadata; a request has one of them."""
    return [
        {"name": name, "datatype": datatype, "shape": [-1, *_shape(name, manifest)]}
        for name, datatype in _DATATYPES.items()
    ]


def checked_input(request: InferRequest, manifest: Manifest, max_batch: int) -> Tuple[str, NDArray[Any]]:
    """Return name and values of the request's only input after checking type and shape; raise `RequestError`."""
    if len(request.inputs) != 1:
        given = ", ".join(map(repr, request.inputs))
        raise RequestError(f"expected exactly one input, {_CHOICE}; the request has {given[:200]}")
    ((name, values),) = request.inputs.items()
    if name not in _DATATYPES:
        raise RequestError(f"there is no input {shown(name)}; expected exactly one, {_CHOICE}")
    if NAMES[values.dtype] != _DATATYPES[name]:
        raise RequestError(f"{name!r} must have the datatype {_DATATYPES[name]}, not {NAMES[values.dtype]}")
    expected = _shape(name, manifest)
    if values.ndim != 1 + len(expected) or values.shape[1:] != expected:
        wanted = ", ".join(map(str, ("N", *expected)))
        raise RequestError(f"{name!r} must have the shape [{wanted}], not {list(values.shape)}")
    if len(values) > max_batch:
        message = f"{len(values)} images in one request; 1 to {max_batch} are allowed (MAX_BATCH)"
        raise RequestError(message, status=413)
    if name == IMAGES and not np.isfinite(values).all():
        raise RequestError(f"{IMAGES!r} contains values that are not finite float32 numbers")
    return name, values


RESIZING = 9 / 8
"""Memory of the largest image while it is resized, as a multiple of its own."""


class ImageLimits:
    """Limits on encoded images, for all threads together."""

    def __init__(self, max_pixels: int) -> None:
        """Decode images of up to `max_pixels`."""
        self.max_pixels = max_pixels
        self.memory = Allowance(int(BYTES_PER_PIXEL * max_pixels * RESIZING))


def network_input(name: str, values: NDArray[Any], manifest: Manifest, limits: ImageLimits) -> NDArray[np.float32]:
    """Convert the result of `checked_input` to [N, 3, H, W]; raise `RequestError` for an undecodable image."""
    if name == PIXELS:
        return normalize(values, manifest.preprocessing)
    if name == ENCODED:
        return _decode(values, manifest, limits)
    images: NDArray[np.float32] = values
    return images


_CHOICE = f"{IMAGES!r}, {PIXELS!r} or {ENCODED!r}"


def _shape(name: str, manifest: Manifest) -> Tuple[int, ...]:
    channels, height, width = manifest.input_shape
    return {IMAGES: (channels, height, width), PIXELS: (height, width, channels), ENCODED: ()}[name]


def _decode(files: NDArray[Any], manifest: Manifest, limits: ImageLimits) -> NDArray[np.float32]:
    opened = _open_all(files, manifest, limits.max_pixels)
    # One at a time, so that only one image is in memory at full size.
    images: NDArray[np.float32] = np.empty((len(files), *manifest.input_shape), np.float32)
    for index in range(len(files)):
        try:
            with limits.memory.taken(_memory(opened[index], manifest, limits.memory.total)):
                image = preprocess(load_image(opened[index]), manifest.preprocessing)
                # Free the pixels before releasing the allowance.
                opened[index].image.close()
        except ImageError as error:
            raise _unusable(index, error) from None
        if image.shape != manifest.input_shape:
            height, width = image.shape[1:]
            raise RequestError(
                f"image {index} of {ENCODED!r} is {height} x {width} (height x width) after preprocessing; the model "
                f"needs {manifest.input_shape[1]} x {manifest.input_shape[2]}"
            )
        images[index] = image
    return images


def _memory(opened: Opened, manifest: Manifest, most: int) -> int:
    """Return the bytes for decoding and resizing; raise `ImageError` if they exceed `most`."""
    memory = max(opened.effort.memory, resize_bytes(opened.image.size, manifest.preprocessing))
    if memory > most:
        raise ImageError(
            f"resizing it from {opened.image.width} x {opened.image.height} takes {memory >> 20} MiB; at most "
            f"{most >> 20} are allowed (MAX_IMAGE_MIPIXELS)"
        )
    return memory


def _open_all(files: NDArray[Any], manifest: Manifest, max_pixels: int) -> List[Opened]:
    """Read all headers; raise `RequestError` before decoding if the images would take too long."""
    found: List[Opened] = []
    for index, data in enumerate(files):
        try:
            found.append(open_image(data, max_pixels, shorter_side=manifest.preprocessing.shorter_side))
        except ImageError as error:
            raise _unusable(index, error) from None
    work, most = sum(each.effort.work for each in found), WORK * max_pixels
    if work > most:
        raise RequestError(
            f"the {len(files)} images of {ENCODED!r} take too long to decode together: as long as an ordinary JPEG of "
            f"{work} pixels; at most {most} are allowed per request ({WORK} times MAX_IMAGE_MIPIXELS); send fewer",
            status=413,
        )
    return found


def _unusable(index: int, error: ImageError) -> RequestError:
    return RequestError(f"image {index} of {ENCODED!r} cannot be used: {error}")
