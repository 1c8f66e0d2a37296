"""`deploy init`: a recipe to start from, every key with its default and its reason."""

from pathlib import Path

from pipeline.errors import RecipeError

TEMPLATE = """\
# What `deploy build` does. Every key may be left out; flags override what stands here (deploy build --help).
# Relative paths are taken from this file's folder.

name = "model"              # the served model's name; the image's tag is name:version-target
version = "0.1.0"
# checkpoint = "resnet20.pth"           # .pth .pt .th .safetensors; `deploy train` makes one
# model = "my_package.my_module:make"   # only for an nn.Module of your own: the function that makes it
data = "digits"             # folder or zip with train/<class> and val/<class>, cifar10:PATH, wider-face:PATH, digits
# expected_accuracy = 0.917             # top-1 of the float network where it was trained, as a share: fill it in,
                            # and a build stops where preprocessing, classes or network are not those of training
# weights = "auto"          # of a file that has a moving average, too: "raw", "ema", or the better of the two
# classes = ["cat", "dog"]              # the network's output order, where it is not alphabetical
targets = ["cpu"]           # `deploy targets` lists them; a path to a TOML file is a target of your own
seed = 0                    # one seed makes a build repeatable
threads = 1                 # threads the artifact runs on, in the figures and on the device
nproc = 1                   # processes that train together on this machine

[preprocessing]             # what is left out follows from the model's family, and is printed
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
# table = "table.json"      # for these two: a table that `deploy profile --output` has written elsewhere
epochs = 10                 # recovery by distillation from the float model

[quantize]
qat_epochs = 2              # quantization-aware training; 0 = post-training quantization alone
weight_bits = "auto"        # 8; 7 where 16-bit sums would saturate (CPUs without VNNI)
saturation_safe = false     # true: 8-bit weights get a 7-bit variant in the same image, for CPUs without VNNI
keep_float = []             # Conv2d and Linear modules to leave in float, e.g. ["conv1", "fc"]
fallback = "layers"         # where int8 would lose more than max_drop, the fewest layers that hold it stay in float,
                            # named with what each saves and costs; "none": all stay in int8

[validate]
max_drop = 1.0              # points of top-1 the artifact may lose against the float baseline
undecided = "stop"          # or "package": build the image although the images are too few to tell, labelled so
correct_looks = false       # true: bounds that hold however many artifacts the same images have judged
# required_place = "image"  # where the proof must come from before a release

[package]
image = true                # false: stop after the proof
# base_image = "python:3.12-slim-bookworm"
grpc = false                # true: speaks the protocol over gRPC, too, on port 8001
# Of TensorRT targets, whose engine is built and proven where the image is started:
fallback = "none"           # "fp16": built, and proven, where int8 does not pass; "fastest": every precision within
                            # the budget is built and proven there, and the fastest of those that pass is served
dla = false                 # true: run on the deep learning accelerator of an Orin or Xavier
personal_images = false     # true: data that shows people (wider-face) goes into the artifact's folder and images
# shard_images = 1000       # images of the gate that travel in the image to judge its engine; default: all
"""


def run(path: Path, *, force: bool) -> None:
    """Write the template to `path`; an existing file is kept unless `force`."""
    if path.is_dir():
        path = path / "deploy.toml"
    if path.exists() and not force:
        raise RecipeError(f"{path} exists already. Edit it, name another file, or overwrite it with --force.")
    try:
        path.write_text(TEMPLATE, encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be written: {error.strerror}.") from None
    print(f"wrote {path}. Next: name your checkpoint and data in it, then `deploy plan` and `deploy build`.")
