"""Preprocessing that a network was trained with; missing values are the usual ones of its family."""

from typing import Literal, Protocol

from targets.device.model.preprocess import Preprocessing

Family = Literal["torchvision", "cifar", "custom"]
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CROP_SHARE = 224 / 256
"""torchvision's reference evaluation resizes to 256 and crops 224."""


class Given(Protocol):
    """The recipe's section `preprocessing`; None: not set."""

    @property
    def resize(self) -> int | None: ...
    @property
    def crop(self) -> int | None: ...
    @property
    def mean(self) -> tuple[float, float, float] | None: ...
    @property
    def std(self) -> tuple[float, float, float] | None: ...
    @property
    def color(self) -> Literal["rgb", "bgr"] | None: ...
    @property
    def interpolation(self) -> Literal["bilinear", "bicubic", "nearest"] | None: ...
    @property
    def reduced_jpeg(self) -> bool | None: ...


def usual_preprocessing(family: Family, *, input_size: tuple[int, int] | None = None) -> Preprocessing:
    """Return the family's published evaluation preprocessing. `input_size` (H, W): the network's, if known.

    The CIFAR family resizes only images that are not 32 x 32; its mean and std are those of the published
    checkpoints (Idelbayev). The user's own network gets the whole image unless its input size is known.
    """
    resize: int | None
    if family == "torchvision":
        crop = input_size or (224, 224)
        resize = round(min(crop) / CROP_SHARE)
    elif family == "cifar":
        crop = input_size or (32, 32)
        resize = min(crop)
    else:
        return Preprocessing(
            resize=None if input_size is None else min(input_size),
            crop=input_size,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            reduced_jpeg=input_size is not None,
        )
    return Preprocessing(resize=resize, crop=crop, mean=IMAGENET_MEAN, std=IMAGENET_STD, reduced_jpeg=True)


def preprocessing_from(
    given: Given,
    *,
    family: Family,
    input_size: tuple[int, int] | None = None,
    stored: Preprocessing | None = None,
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return values of the recipe, else those `stored` with the checkpoint, else the family's usual ones.

    Returns the preprocessing and a text for each assumed value, to be printed.
    """
    crop, resize, texts = _geometry(given, family, input_size, stored)
    usual = stored or usual_preprocessing(family)
    result = Preprocessing(
        resize=resize,
        crop=crop,
        mean=usual.mean if given.mean is None else given.mean,
        std=usual.std if given.std is None else given.std,
        color=usual.color if given.color is None else given.color,
        interpolation=usual.interpolation if given.interpolation is None else given.interpolation,
        # Not a property of training, so never stored with the weights.
        reduced_jpeg=resize is not None and given.reduced_jpeg is not False,
    )
    if stored is not None:
        return result, ()
    left_out = [name for name in ("mean", "std", "color", "interpolation") if getattr(given, name) is None]
    texts += [f"{name} {getattr(result, name)}" for name in left_out]
    if result.reduced_jpeg and given.reduced_jpeg is None:
        texts.append(f"JPEGs decoded at 1/2, 1/4 or 1/8 where that leaves {resize} pixels or more (reduced_jpeg)")
    return result, tuple(texts)


def _geometry(
    given: Given, family: Family, input_size: tuple[int, int] | None, stored: Preprocessing | None
) -> tuple[tuple[int, int] | None, int | None, list[str]]:
    """Return crop, resize and what was assumed; a given one sets the other in the family's proportion."""
    if given.crop is not None:
        crop: tuple[int, int] | None = (given.crop, given.crop)
    elif given.resize is not None:
        side = round(given.resize * CROP_SHARE) if family == "torchvision" else given.resize
        crop = input_size or (side, side)
    elif stored is not None:
        return stored.crop, stored.resize, []
    else:
        crop = usual_preprocessing(family, input_size=input_size).crop
    resize = usual_preprocessing(family, input_size=crop).resize if given.resize is None else given.resize
    texts = []
    if given.resize is None:
        texts.append("no resize" if resize is None else f"shorter side resized to {resize}")
    if given.crop is None:
        texts.append("no crop" if crop is None else f"centre crop {crop[0]} x {crop[1]}")
    return crop, resize, texts
