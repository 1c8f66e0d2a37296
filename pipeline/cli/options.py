"""Options that override `deploy.toml`: one row each, for all commands that take them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

MODEL, COMPRESSION, PROOF, OUTPUT = "Model and data", "Compression", "Proof", "Image and output"

RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe", help="The recipe; default: deploy.toml in this folder, if it exists.", show_default=False
    ),
]
WorkspaceFolder = Annotated[
    Path | None,
    typer.Option(
        "--workspace", help="Default: .deploy beside the recipe.", rich_help_panel=OUTPUT, show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show details and commands.", rich_help_panel=OUTPUT)]


@dataclass(frozen=True)
class Key:
    """The recipe's key that an option overrides, dotted: `prune.macs`."""

    dotted: str


BaseImage = Annotated[
    str | None,
    Key("package.base_image"),
    typer.Option("--base-image", help="Base image with Python 3 and venv.", rich_help_panel=OUTPUT),
]
WithImage = Annotated[
    bool | None,
    Key("package.image"),
    typer.Option(
        "--image/--no-image", help="Build a container image, or stop after the proof.", rich_help_panel=OUTPUT
    ),
]


@dataclass(frozen=True, kw_only=True)
class RecipeFlags:
    """The table: a row's name, type, key, option, help and panel. A row without a `Key` is not in the recipe."""

    recipe: RecipeFile = None
    target: Annotated[
        list[str] | None,
        Key("targets"),
        typer.Option("--target", "-t", help="Target name or TOML file; repeat for several.", rich_help_panel=MODEL),
    ] = None
    checkpoint: Annotated[
        str | None,
        Key("checkpoint"),
        typer.Option("--checkpoint", help="Trained weights (.pth .pt .th .safetensors).", rich_help_panel=MODEL),
    ] = None
    model: Annotated[
        str | None,
        Key("model"),
        typer.Option("--model", help="package.module:factory of your own nn.Module.", rich_help_panel=MODEL),
    ] = None
    data: Annotated[
        str | None,
        Key("data"),
        typer.Option(
            "--data",
            help="Folder or zip (train/<class>, val/<class>), cifar10:PATH, wider-face:PATH, digits.",
            rich_help_panel=MODEL,
        ),
    ] = None
    expect_accuracy: Annotated[
        float | None,
        Key("expected_accuracy"),
        typer.Option(
            "--expect-accuracy",
            help="Top-1 of the float network where it was trained, such as 0.917; the build stops if it is lower.",
            rich_help_panel=MODEL,
        ),
    ] = None
    weights: Annotated[
        str | None,
        Key("weights"),
        typer.Option(
            "--weights",
            help="For a file that also has a moving average: raw, ema, or auto (the better).",
            rich_help_panel=MODEL,
        ),
    ] = None
    seed: Annotated[
        int | None, Key("seed"), typer.Option("--seed", help="Makes a build repeatable.", rich_help_panel=MODEL)
    ] = None
    macs: Annotated[
        float | None,
        Key("prune.macs"),
        typer.Option(
            "--macs", help="Share of multiply-accumulates to keep; 1.0 = no pruning.", rich_help_panel=COMPRESSION
        ),
    ] = None
    params: Annotated[
        float | None,
        Key("prune.params"),
        typer.Option("--params", help="Share of parameters to keep; 1.0 = no pruning.", rich_help_panel=COMPRESSION),
    ] = None
    latency: Annotated[
        str | None,
        Key("prune.latency"),
        typer.Option("--latency", help="CPU time of one image to prune to, such as 8ms.", rich_help_panel=COMPRESSION),
    ] = None
    speedup: Annotated[
        float | None,
        Key("prune.speedup"),
        typer.Option("--speedup", help="Prune until it is this many times faster.", rich_help_panel=COMPRESSION),
    ] = None
    table: Annotated[
        str | None,
        Key("prune.table"),
        typer.Option(
            "--table", help="Latency table of `deploy profile --output`; else measured.", rich_help_panel=COMPRESSION
        ),
    ] = None
    epochs: Annotated[
        int | None,
        Key("prune.epochs"),
        typer.Option("--epochs", help="Epochs of recovery (distillation) after pruning.", rich_help_panel=COMPRESSION),
    ] = None
    qat_epochs: Annotated[
        int | None,
        Key("quantize.qat_epochs"),
        typer.Option(
            "--qat-epochs",
            help="Epochs of quantization-aware training; 0: post-training quantization only.",
            rich_help_panel=COMPRESSION,
        ),
    ] = None
    nproc: Annotated[
        int | None,
        Key("nproc"),
        typer.Option("--nproc", help="Training processes on this machine.", rich_help_panel=COMPRESSION),
    ] = None
    weight_bits: Annotated[
        str | None,
        Key("quantize.weight_bits"),
        typer.Option(
            "--weight-bits", help="auto, 8, or 7 (cannot saturate without VNNI).", rich_help_panel=COMPRESSION
        ),
    ] = None
    saturation_safe: Annotated[
        bool | None,
        Key("quantize.saturation_safe"),
        typer.Option(
            "--saturation-safe/--no-saturation-safe",
            help="Also pack a proven 7-bit variant, for CPUs without VNNI.",
            rich_help_panel=COMPRESSION,
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        Key("validate.max_drop"),
        typer.Option("--max-drop", help="Points of top-1 the artifact may lose.", rich_help_panel=PROOF),
    ] = None
    undecided: Annotated[
        str | None,
        Key("validate.undecided"),
        typer.Option("--undecided", help="If too few images: stop, or package with a label.", rich_help_panel=PROOF),
    ] = None
    threads: Annotated[
        int | None,
        Key("threads"),
        typer.Option("--threads", help="Threads the artifact runs on.", rich_help_panel=PROOF),
    ] = None
    name: Annotated[
        str | None, Key("name"), typer.Option("--name", help="The served model's name.", rich_help_panel=OUTPUT)
    ] = None
    image_version: Annotated[
        str | None,
        Key("version"),
        typer.Option("--image-version", help="The image's tag is name:version-target.", rich_help_panel=OUTPUT),
    ] = None
    base_image: BaseImage = None
    image: WithImage = None
    grpc: Annotated[
        bool | None,
        Key("package.grpc"),
        typer.Option("--grpc/--no-grpc", help="Also serve gRPC, on port 8001.", rich_help_panel=OUTPUT),
    ] = None
    dla: Annotated[
        bool | None,
        Key("package.dla"),
        typer.Option("--dla/--no-dla", help="Run on a Jetson's deep learning accelerator.", rich_help_panel=OUTPUT),
    ] = None
    personal_images: Annotated[
        bool | None,
        Key("package.personal_images"),
        typer.Option(
            "--personal-images/--no-personal-images",
            help="Copy the gate's photos of people into the artifact's folder and TensorRT images.",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    workspace: WorkspaceFolder = None
    as_json: AsJson = False
    verbose: Verbose = False


def recipe_keys() -> Mapping[str, str]:
    """Return each row's key of the recipe; rows without one are left out."""
    found: dict[str, str] = {}
    for name, hint in get_type_hints(RecipeFlags, include_extras=True).items():
        found.update((name, each.dotted) for each in hint.__metadata__ if isinstance(each, Key))
    return found


def overrides(flags: RecipeFlags) -> dict[str, object]:
    """Return the value given for each of the recipe's keys, or None."""
    given: dict[str, object] = {key: getattr(flags, name) for name, key in recipe_keys().items()}
    if flags.weight_bits in ("7", "8"):
        given["quantize.weight_bits"] = int(flags.weight_bits)
    return given
