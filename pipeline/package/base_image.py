"""The image that ours stands on: named by the target or the user, here or pulled, and asked for its Python."""

import json
import re

from pipeline.containers.container import output_of
from pipeline.containers.engine import Engine
from pipeline.errors import EngineMissing, PackageError
from pipeline.progress import Progress
from targets import base_images as bases
from targets.base_images import BaseImage, look_up_base
from targets.target import Target

PYTHON = re.compile(r"3\.[0-9]{1,3}")
QUESTION = """
import json, platform, sys
try:
    import ensurepip, venv
    has_venv = True
except ImportError:
    has_venv = False
print(json.dumps([platform.python_implementation(), list(sys.version_info[:2]), has_venv]))
"""
OWN = "edge-deploy-base:bookworm"
OWN_OF = {"linux/amd64": OWN, "linux/arm64": f"{OWN}-arm64"}
"""By platform: the base image that scripts/base_image.sh makes without a registry."""


def hint(target: Target) -> str:
    """What to do where there is no base image, or one that cannot carry ours."""
    platform = target.platform
    if target.gpu is not None:
        return (
            f"Name an image for {platform} with --base-image that has Python 3 and TensorRT {target.gpu.tensorrt}'s "
            "bindings for it, or build the context where there is one, as on the device."
        )
    tag, architecture = OWN_OF[platform], platform.rpartition("/")[2]
    return (
        f"Name an image you have with --base-image (any with Python 3 and venv in it), or make {tag} with "
        f"scripts/base_image.sh {architecture} and say --base-image {tag}."
    )


def find_base(engine: Engine, target: Target, base_image: str | None, *, progress: Progress) -> BaseImage:
    """The base image, pulled where it is not here; raises `PackageError` where it cannot carry our image."""
    tag, platform = obtain_base(engine, target, base_image, progress=progress)
    return BaseImage(tag=tag, platform=platform, python=_python_in(engine, tag, target))


def obtain_base(engine: Engine, target: Target, base_image: str | None, *, progress: Progress) -> tuple[str, str]:
    """Tag and platform of the base image, pulled where it is not here; raises `PackageError`."""
    stated = look_up_base(target, base_image)
    tag = base_image if stated is None else stated.tag
    assert tag is not None
    platform = engine.platform_of(tag)
    if platform is None:
        # Another image has another TensorRT, or none.
        is_fixed = base_image is not None or target.gpu is not None
        tag, platform = _pull(engine, tag, target, progress, is_fixed=is_fixed)
    if platform != target.platform:
        raise PackageError(
            f"the base image {tag} is for {platform}, the target {target.name} for {target.platform}. "
            "Name another with --base-image."
        )
    return tag, platform


def _pull(engine: Engine, tag: str, target: Target, progress: Progress, *, is_fixed: bool) -> tuple[str, str]:
    """Tag and platform of the image that was pulled; where no registry answers, of another known one that is here.

    One that `is_fixed`, as it was asked for by name or holds a TensorRT, is never replaced by another.
    """
    platform = target.platform
    try:
        engine.pull(tag, platform, progress)
    except PackageError as error:
        here = None if is_fixed else _another_here(engine, platform)
        if here is None:
            raise PackageError(
                f"the base image {tag} is not here and cannot be pulled: {error}. {hint(target)}"
            ) from None
        progress.line(f"the base image {tag} cannot be pulled; building on {here}, which is here")
        return here, platform
    found = engine.platform_of(tag)
    assert found is not None
    return tag, found


def _another_here(engine: Engine, platform: str) -> str | None:
    """The first plain base image of `docker/images.toml` for this platform that the engine has."""
    known = (base for base in bases.known_bases().values() if base.platform == platform and not base.tensorrt)
    return next((base.tag for base in known if engine.platform_of(base.tag) == platform), None)


def _python_in(engine: Engine, tag: str, target: Target) -> str:
    """`3.12`, from the `python3` that the image's own PATH finds."""
    try:
        implementation, version, has_venv = json.loads(output_of(engine, tag, ["python3", "-c", QUESTION]))
    except PackageError as error:
        if "exec format error" in str(error):
            raise PackageError(
                f"this machine cannot run programs of {target.platform}, and with them no image for it. Build on a "
                "machine that can, or install an emulator: sudo apt-get install qemu-user-static binfmt-support."
            ) from None
        raise PackageError(f"the base image {tag} cannot carry the model: {error} {hint(target)}") from None
    except (ValueError, TypeError):
        raise PackageError(f"the python3 of the base image {tag} answers nothing useful. {hint(target)}") from None
    python = ".".join(map(str, version))
    # It names a file of packages.
    if not PYTHON.fullmatch(python):
        raise PackageError(f"the python3 of the base image {tag} answers nothing useful. {hint(target)}")
    if implementation != "CPython":
        raise PackageError(f"the base image {tag} has {implementation}; CPython is needed. {hint(target)}")
    # Packages for TensorRT are unpacked on the host, which needs no venv there.
    if target.gpu is None and not has_venv:
        raise PackageError(
            f"the base image {tag} has Python {python} without venv (Debian: python3-venv). {hint(target)}"
        )
    return python


def base_without_engine(target: Target, base_image: str | None, missing: str) -> BaseImage:
    """The base of a context that is built elsewhere; raises `EngineMissing`, beginning with `missing`."""
    base = look_up_base(target, base_image)
    if base is None:
        raise EngineMissing(
            f"{missing} Without one the Python in {base_image} cannot be known, so no build context was written; "
            "leave out --base-image to get one."
        )
    return base
