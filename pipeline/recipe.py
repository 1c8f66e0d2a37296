"""Read `deploy.toml` and command-line options into one checked `Recipe`; no value is corrected silently."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.artifacts import Fallback, Place
from pipeline.errors import RecipeError
from pipeline.toml_errors import explain

Share = Annotated[float, Field(gt=0, le=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
MIN_STD, MAX_STD = 0.01, 1.5
MAX_PIXELS = 4096
"""Largest side in pixels; above it the stem's activation alone takes gigabytes."""
Side = Annotated[int, Field(gt=0, le=MAX_PIXELS)]
NAME = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*$"


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PreprocessingRecipe(Section):
    """How an image file becomes the network's input. Missing keys follow from the model's family."""

    resize: Annotated[Side, Field(description="shorter side in pixels before the crop")] | None = None
    crop: Annotated[Side, Field(description="side of the centre crop in pixels: the network's input")] | None = None
    mean: tuple[Finite, Finite, Finite] | None = None
    std: tuple[Finite, Finite, Finite] | None = None
    color: Literal["rgb", "bgr"] | None = None
    interpolation: Literal["bilinear", "bicubic", "nearest"] | None = None
    reduced_jpeg: Annotated[bool, Field(description="false: JPEGs are decoded at full size, then resized")] | None = (
        None
    )

    @model_validator(mode="after")
    def _of_pixels_from_0_to_1(self) -> Self:
        """Check that mean and std are for pixels divided by 255, which not all training code does."""
        for name, values, problem in (("mean", self.mean, _impossible_mean), ("std", self.std, _impossible_std)):
            if values is not None and any(problem(value) for value in values):
                raise ValueError(f"{name} = {list(values)} is out of range: {_cause(values)}")
        return self


def _impossible_mean(value: float) -> bool:
    return not 0 <= value <= 1


def _impossible_std(value: float) -> bool:
    # Networks from Caffe take pixels from 0 to 255 unscaled.
    return not MIN_STD <= value <= MAX_STD and abs(255 * value - 1) > 0.01


def _cause(values: tuple[float, ...]) -> str:
    if all(value >= 0 for value in values) and max(values) > MAX_STD:
        divided = ", ".join(f"{value / 255:.4g}" for value in values)
        return (
            f"pixels are scaled to 0..1, and these look like values for pixels of 0..255. Divided by 255: [{divided}]"
        )
    return (
        f"pixels are scaled to 0..1, so a mean lies between 0 and 1 and a standard deviation between {MIN_STD} and "
        f"{MAX_STD} (or is 1/255, if training used unscaled pixels of 0..255)"
    )


def _milliseconds(value: object) -> object:
    """Convert `8`, `"8ms"` and `"800us"` to milliseconds; return non-text unchanged for the type check."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|us|s)?", value.strip())
    if found is None:
        raise ValueError("give a time such as 8ms, 800us or 0.008s")
    return float(found[1]) * {"us": 1e-3, "s": 1e3}.get(found[2], 1.0)


Milliseconds = Annotated[float, Field(gt=0), BeforeValidator(_milliseconds)]


class PruneRecipe(Section):
    """Structural pruning; at most one of `macs`, `params`, `latency` and `speedup`."""

    macs: Share = Field(default=1.0, description="share of multiply-accumulates to keep; 1.0 prunes nothing")
    params: Share = Field(default=1.0, description="share of parameters to keep; 1.0 prunes nothing")
    latency: Milliseconds | None = Field(
        default=None, description='CPU time of one image, such as "8ms", by the target\'s latency table'
    )
    speedup: Annotated[float, Field(gt=1)] | None = Field(
        default=None, description="how many times faster than the unpruned network, by the target's latency table"
    )
    table: str | None = Field(
        default=None, description="latency table written by `deploy profile --output`; default: measured here"
    )
    epochs: Annotated[int, Field(ge=0)] = Field(default=10, description="recovery by distillation after pruning")

    @property
    def by_clock(self) -> bool:
        """Whether the budget is a time."""
        return self.latency is not None or self.speedup is not None

    @property
    def prunes(self) -> bool:
        return self.macs < 1 or self.params < 1 or self.by_clock

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        shares = {"macs": self.macs, "params": self.params}
        given = {name: share for name, share in shares.items() if share < 1}
        times = {"latency": self.latency, "speedup": self.speedup}
        given |= {name: value for name, value in times.items() if value is not None}
        if len(given) > 1:
            raise ValueError(
                f"{' and '.join(f'{name} = {value:g}' for name, value in given.items())}: give only one of them"
            )
        if self.table is not None and not self.by_clock:
            raise ValueError(f"table = {self.table!r} needs latency or speedup, and neither is set")
        return self


class QuantizeRecipe(Section):
    qat_epochs: Annotated[int, Field(ge=0)] = Field(
        default=2, description="epochs of quantization-aware training; 0: post-training quantization only"
    )
    weight_bits: Literal["auto", 7, 8] = Field(
        default="auto",
        description="auto: 8 if the CPU has VNNI or dot products, else 7 (8 bits could saturate)",
    )
    saturation_safe: bool = Field(
        default=False,
        description="also prove and pack a 7-bit variant, which CPUs without VNNI run instead of the 8-bit model",
    )
    keep_float: tuple[str, ...] = Field(default=(), description="names of Conv2d and Linear modules to keep in float")
    fallback: Literal["layers", "none"] = Field(
        default="layers",
        description="if int8 in every layer would lose more than max_drop: layers: keep the fewest layers in float "
        "that meet it, listed with the gain and cost of each; none: keep all layers in int8",
    )


class ValidateRecipe(Section):
    max_drop: Annotated[float, Field(ge=0, le=100)] = Field(
        default=1.0, description="points of top-1 the artifact may lose against the float baseline"
    )
    undecided: Literal["stop", "package"] = Field(
        default="stop", description="what to do if the images are too few to decide"
    )
    correct_looks: bool = Field(
        default=False,
        description="if the same images judge several artifacts of a model, raise the confidence of the bounds so "
        "that all of them together pass by chance in nominally at most 5 % of cases",
    )
    required_place: Place | None = Field(default=None, description="where the proof must be measured for a release")


class PackageRecipe(Section):
    image: bool = Field(default=True, description="build a container image")
    base_image: str | None = Field(
        default=None,
        pattern=r"^\S+$",
        description="base image with Python 3 and venv",
        examples=["python:3.12-slim-bookworm"],
    )
    grpc: bool = Field(default=False, description="also serve the protocol over gRPC, on port 8001")
    fallback: Fallback = Field(
        default="none",
        description="for TensorRT engines: fp16: build and prove an fp16 engine if int8 does not pass; fastest: "
        "build, prove and time every precision within the accuracy budget on the device",
    )
    dla: bool = Field(
        default=False, description="run on the deep learning accelerator; unsupported layers run on the GPU (TensorRT)"
    )
    personal_images: bool = Field(
        default=False,
        description="for data that shows people: copy the gate's images into the artifact's folder and into images",
    )
    shard_images: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="gate images packed into a TensorRT image to judge its engine; default: all",
    )


def _share(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool) and not 0 < value <= 1:
        as_share = f", such as {value / 100:g} for {value:g} %" if 1 < value <= 100 else ""
        raise ValueError(f"give a share between 0 and 1{as_share}")
    return value


class Recipe(Section):
    """Everything a build depends on."""

    name: Annotated[str, Field(pattern=NAME, max_length=128)] = Field(
        default="model",
        description="the model's name: lower-case letters and digits, separated by single . _ or -",
        examples=["resnet20-cars"],
    )
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,100}$")] = Field(
        default="0.1.0",
        description="the image's version: letters, digits, . _ and -; the tag is name:version-target",
        examples=["0.1.0"],
    )
    checkpoint: str | None = Field(default=None, description="trained weights: .pth .pt .th .safetensors")
    model: str | None = Field(
        default=None,
        pattern=r"^[\w.]+:\w+$",
        description="package.module:factory of your own nn.Module",
        examples=["my_networks.small:make"],
    )
    data: str = Field(
        default="digits",
        description="folder or zip with train/<class> and val/<class>; cifar10:PATH; wider-face:PATH; digits",
    )
    expected_accuracy: Annotated[float, BeforeValidator(_share)] | None = Field(
        default=None,
        description="top-1 of the float network where it was trained, as a share such as 0.917; the build "
        "stops if it is lower on the gate's images by more than chance explains",
    )
    weights: Literal["auto", "raw", "ema"] = Field(
        default="auto",
        description="for a file with weights and their moving average: raw, ema, or auto: the better on the selection "
        "split",
    )
    classes: tuple[str, ...] = Field(default=(), description="class names in training order; default: alphabetical")
    targets: tuple[str, ...] = Field(default=("cpu",), min_length=1, description="names or paths of target files")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="threads the artifact runs on, when timed and on the device"
    )
    nproc: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="training processes on this machine; results differ within noise"
    )
    preprocessing: PreprocessingRecipe = PreprocessingRecipe()
    prune: PruneRecipe = PruneRecipe()
    quantize: QuantizeRecipe = QuantizeRecipe()
    validate_: ValidateRecipe = Field(default=ValidateRecipe(), alias="validate")
    package: PackageRecipe = PackageRecipe()

    @model_validator(mode="after")
    def _data_of_the_checkpoint(self) -> Self:
        """Require data for a checkpoint: the embedded digits must not be used by accident."""
        if self.checkpoint is not None and "data" not in self.model_fields_set:
            raise ValueError(
                f"checkpoint = {self.checkpoint!r}, but data is not set: give the images it was trained for "
                "(--data FOLDER; `--data digits` for the embedded digits)"
            )
        return self


def read_recipe(path: Path | None, flags: dict[str, Any]) -> Recipe:
    """Return the recipe of `deploy.toml` (if given) overridden by `flags`, whose keys are dotted: `prune.macs`.

    Relative paths in the file are relative to the file's folder. Raises `RecipeError` with every mistake found.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        raw = _parse(path)
        for key in ("checkpoint", "data"):
            if isinstance(raw.get(key), str):
                raw[key] = _relative_to(path.parent, raw[key])
        prune = raw.get("prune")
        if isinstance(prune, dict) and isinstance(prune.get("table"), str):
            prune["table"] = str(path.parent / prune["table"])
    for dotted, value in flags.items():
        if value is None:
            continue
        *sections, key = dotted.split(".")
        place = raw
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = value
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        where = str(path) if path is not None else "the options"
        raise RecipeError(explain(where, error, Recipe)) from None


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}. `deploy init` writes one.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise RecipeError(f"the recipe {path} is nested too deeply. `deploy init` writes a valid one.") from None


def _relative_to(folder: Path, value: str) -> str:
    scheme, colon, rest = value.rpartition(":")
    if value == "digits":
        return value
    return f"{scheme}{colon}{folder / rest}"
