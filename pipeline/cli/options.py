"""The options that override `deploy.toml`, said once for all commands that take them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RecipeError

RECIPE_FILE = Path("deploy.toml")
MODEL, COMPRESSION, PROOF, OUTPUT = "Model and data", "Compression", "Proof", "Image and output"

RecipeFile = Annotated[
    Path | None,
    typer.Option(
        "--recipe", help="The recipe; default: deploy.toml in this folder, if there is one.", show_default=False
    ),
]
Targets = Annotated[
    list[str] | None,
    typer.Option("--target", "-t", help="Target name or TOML file; repeat for several.", rich_help_panel=MODEL),
]
CheckpointFile = Annotated[
    str | None,
    typer.Option("--checkpoint", help="Trained weights (.pth .pt .th .safetensors).", rich_help_panel=MODEL),
]
ModelFactory = Annotated[
    str | None,
    typer.Option("--model", help="package.module:factory of your own nn.Module.", rich_help_panel=MODEL),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Folder or zip (train/<class>, val/<class>), cifar10:PATH, wider-face:PATH, digits.",
        rich_help_panel=MODEL,
    ),
]
ExpectAccuracy = Annotated[
    float | None,
    typer.Option(
        "--expect-accuracy",
        help="Top-1 the float network had where it was trained, such as 0.917: stops where it has less here.",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        help="Of a file with a moving average, too: raw, ema, or auto (the better).",
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Makes a build repeatable.", rich_help_panel=MODEL)]
Macs = Annotated[
    float | None,
    typer.Option(
        "--macs", help="Share of multiply-accumulates to keep; 1.0 = no pruning.", rich_help_panel=COMPRESSION
    ),
]
Params = Annotated[
    float | None,
    typer.Option("--params", help="Share of parameters to keep; 1.0 = no pruning.", rich_help_panel=COMPRESSION),
]
Latency = Annotated[
    str | None,
    typer.Option("--latency", help="CPU time of one image to prune to, such as 8ms.", rich_help_panel=COMPRESSION),
]
Speedup = Annotated[
    float | None,
    typer.Option("--speedup", help="Prune until it is so many times faster.", rich_help_panel=COMPRESSION),
]
Table = Annotated[
    str | None,
    typer.Option(
        "--table", help="Latency table of `deploy profile --output`; else it is made.", rich_help_panel=COMPRESSION
    ),
]
Nproc = Annotated[
    int | None,
    typer.Option("--nproc", help="Processes that train together on this machine.", rich_help_panel=COMPRESSION),
]
Epochs = Annotated[
    int | None,
    typer.Option("--epochs", help="Epochs of recovery (distillation) after pruning.", rich_help_panel=COMPRESSION),
]
QatEpochs = Annotated[
    int | None,
    typer.Option(
        "--qat-epochs",
        help="Epochs of quantization-aware training; 0 = post-training quantization.",
        rich_help_panel=COMPRESSION,
    ),
]
WeightBits = Annotated[
    str | None,
    typer.Option("--weight-bits", help="auto, 8, or 7 (cannot saturate without VNNI).", rich_help_panel=COMPRESSION),
]
SaturationSafe = Annotated[
    bool | None,
    typer.Option(
        "--saturation-safe/--no-saturation-safe",
        help="Pack a proven 7-bit variant, too, for CPUs without VNNI.",
        rich_help_panel=COMPRESSION,
    ),
]
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", help="Points of top-1 the artifact may lose.", rich_help_panel=PROOF),
]
Undecided = Annotated[
    str | None,
    typer.Option("--undecided", help="stop, or package (labelled so).", rich_help_panel=PROOF),
]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads the artifact runs on.", rich_help_panel=PROOF)]
Name = Annotated[str | None, typer.Option("--name", help="The served model's name.", rich_help_panel=OUTPUT)]
Version = Annotated[
    str | None,
    typer.Option("--image-version", help="The image's tag is name:version-target.", rich_help_panel=OUTPUT),
]
BaseImage = Annotated[
    str | None,
    typer.Option("--base-image", help="Base image with Python 3 and venv in it.", rich_help_panel=OUTPUT),
]
WithImage = Annotated[
    bool | None,
    typer.Option(
        "--image/--no-image", help="Build a container image, or stop after the proof.", rich_help_panel=OUTPUT
    ),
]
Dla = Annotated[
    bool | None,
    typer.Option("--dla/--no-dla", help="Run on a Jetson's deep learning accelerator.", rich_help_panel=OUTPUT),
]
Grpc = Annotated[
    bool | None,
    typer.Option("--grpc/--no-grpc", help="An image that speaks gRPC, too, on port 8001.", rich_help_panel=OUTPUT),
]
PersonalImages = Annotated[
    bool | None,
    typer.Option(
        "--personal-images/--no-personal-images",
        help="Let the gate's photos of people into the artifact's folder and TensorRT images.",
        rich_help_panel=OUTPUT,
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


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asked for, before it is checked."""

    recipe_file: Path | None
    flags: dict[str, object]
    workspace: Path | None
    as_json: bool
    is_verbose: bool

    @property
    def existing_recipe_file(self) -> Path | None:
        """The file named, or `deploy.toml` where there is one."""
        if self.recipe_file is not None:
            return self.recipe_file
        return RECIPE_FILE if RECIPE_FILE.exists() else None

    @property
    def workspace_folder(self) -> Path:
        if self.workspace is not None:
            try:
                str(self.workspace).encode()
            except UnicodeEncodeError:
                raise RecipeError(
                    f"the workspace {str(self.workspace)!r} is not a name in UTF-8, which reports could not tell. "
                    "Name another with --workspace."
                ) from None
            return self.workspace
        file = self.existing_recipe_file
        return (file.parent if file is not None else Path()) / ".deploy"
