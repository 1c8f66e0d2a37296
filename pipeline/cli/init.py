"""`deploy init`: write a recipe to start from, with every key, its default and its reason."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import RecipeError

TEMPLATE = """\
# What `deploy build` does. Every key is optional; command-line options override it (deploy build --help).
# Relative paths are relative to this file's folder.

name = "model"              # the served model's name; the image's tag is name:version-target
version = "0.1.0"
# checkpoint = "resnet20.pth"           # .pth .pt .th .safetensors; `deploy train` makes one
# model = "my_package.my_module:make"   # only for your own nn.Module: the function that makes it
data = "digits"             # folder or zip with train/<class> and val/<class>, cifar10:PATH, wider-face:PATH, digits
# expected_accuracy = 0.917             # top-1 of the float network where it was trained, as a share: set it, and a
                            # build stops if preprocessing, classes or network differ from those of training
# weights = "auto"          # for a file that also has a moving average: "raw", "ema", or the better of the two
# classes = ["cat", "dog"]              # the network's output order, if it is not alphabetical
targets = ["cpu"]           # `deploy targets` lists them; a path to a TOML file is your own target
seed = 0                    # one seed makes a build repeatable
threads = 1                 # threads the artifact runs on, when timed and on the device
nproc = 1                   # training processes on this machine

[preprocessing]             # missing keys follow from the model's family, and are printed
# resize = 256              # shorter side in pixels
# crop = 224                # centre crop: the network's input
# mean = [0.485, 0.456, 0.406]
# std = [0.229, 0.224, 0.225]
# color = "rgb"             # or "bgr"
# interpolation = "bilinear"            # or "bicubic", "nearest"
# reduced_jpeg = true                  # JPEGs at 1/2, 1/4 or 1/8 of their size where resize allows; false: never

[prune]
macs = 1.0                  # share of multiply-accumulates to keep; 1.0 prunes nothing
# params = 0.7              # or: share of parameters to keep
# speedup = 1.3             # or: times faster, by the target's latency table, measured here
# latency = "8ms"           # or: CPU time of one image
# table = "table.json"      # for these two: a table written by `deploy profile --output` on another machine
epochs = 10                 # recovery by distillation from the float model

[quantize]
qat_epochs = 2              # quantization-aware training; 0: post-training quantization only
weight_bits = "auto"        # 8; 7 where 16-bit sums would saturate (CPUs without VNNI)
saturation_safe = false     # true: add a 7-bit variant to the image of 8-bit weights, for CPUs without VNNI
keep_float = []             # Conv2d and Linear modules to keep in float, e.g. ["conv1", "fc"]
fallback = "layers"         # if int8 would lose more than max_drop, the fewest layers that meet it stay in float,
                            # listed with the gain and cost of each; "none": all stay in int8

[validate]
max_drop = 1.0              # points of top-1 the artifact may lose against the float baseline
undecided = "stop"          # or "package": if the images are too few to decide, build the image with such a label
correct_looks = false       # true: widen the bounds for the number of artifacts judged on the same images
# required_place = "image"  # where the proof must be measured for a release

[package]
image = true                # false: stop after the proof
# base_image = "python:3.12-slim-bookworm"
grpc = false                # true: also serve the protocol over gRPC, on port 8001
# For TensorRT targets, whose engine is built and proven where the image is started:
fallback = "none"           # "fp16": built and proven if int8 does not pass; "fastest": every precision within the
                            # budget is built and proven there, and the fastest that passes is served
dla = false                 # true: run on the deep learning accelerator of an Orin or Xavier
personal_images = false     # true: data that shows people (wider-face) is copied into artifact folder and images
# shard_images = 1000       # gate images in the image to judge its engine; default: all
"""


def init(
    path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("deploy.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite.")] = False,
) -> None:
    """Write a commented deploy.toml."""
    if path.is_dir():
        path = path / "deploy.toml"
    if path.exists() and not force:
        raise RecipeError(f"{path} already exists. Edit it, give another file, or overwrite it with --force.")
    try:
        path.write_text(TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}.") from None
    print(f"wrote {path}. Next: set your checkpoint and data in it, then run `deploy plan` and `deploy build`.")
