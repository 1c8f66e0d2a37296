"""The base image: given by the target or the user, local or pulled, and asked for its Python."""

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
    """Return what to do if the base image is missing or not usable."""
    platform = target.platform
    if target.gpu is not None:
        return (
            f"Give an image for {platform} with --base-image that has Python 3 and TensorRT {target.gpu.tensorrt}'s "
            "bindings for it, or build the context where there is one, such as on the device."
        )
    tag, architecture = OWN_OF[platform], platform.rpartition("/")[2]
    return (
        f"Give a local image with --base-image (any with Python 3 and venv), or make {tag} with "
        f"scripts/base_image.sh {architecture} and use --base-image {tag}."
    )


def find_base(engine: Engine, target: Target, base_image: str | None, *, progress: Progress) -> BaseImage:
    """Return the base image, pulled if it is not local; raise `PackageError` if it cannot be used."""
    tag, platform = obtain_base(engine, target, base_image, progress=progress)
    return BaseImage(tag=tag, platform=platform, python=_python_in(engine, tag, target))


def obtain_base(engine: Engine, target: Target, base_image: str | None, *, progress: Progress) -> tuple[str, str]:
    """Return tag and platform of the base image, pulled if it is not local; raise `PackageError`."""
    stated = look_up_base(target, base_image)
    tag = base_image if stated is None else stated.tag
    assert tag is not None
    platform = engine.platform_of(tag)
    if platform is None:
        # A replacement would have another TensorRT, or none.
        is_fixed = base_image is not None or target.gpu is not None
        tag, platform = _pull(engine, tag, target, progress, is_fixed=is_fixed)
    if platform != target.platform:
        raise PackageError(
            f"the base image {tag} is for {platform}, the target {target.name} for {target.platform}. "
            "Give another with --base-image."
        )
    return tag, platform


def _pull(engine: Engine, tag: str, target: Target, progress: Progress, *, is_fixed: bool) -> tuple[str, str]:
    """Pull the image; if no registry responds, use another known local one. Return tag and platform.

    An image that `is_fixed`, because it was given by name or contains TensorRT, is never replaced.
    """
    platform = target.platform
    try:
        engine.pull(tag, platform, progress)
    except PackageError as error:
        here = None if is_fixed else _another_here(engine, platform)
        if here is None:
            raise PackageError(
                f"the base image {tag} is not on this machine and cannot be pulled: {error}. {hint(target)}"
            ) from None
        progress.line(f"the base image {tag} cannot be pulled; building on the local image {here}")
        return here, platform
    found = engine.platform_of(tag)
    assert found is not None
    return tag, found


def _another_here(engine: Engine, platform: str) -> str | None:
    """Return the first plain base image of `docker/images.toml` for this platform that the engine has."""
    known = (base for base in bases.known_bases().values() if base.platform == platform and not base.tensorrt)
    return next((base.tag for base in known if engine.platform_of(base.tag) == platform), None)


def _python_in(engine: Engine, tag: str, target: Target) -> str:
    """Return, for example, `3.12`: the version of `python3` on the image's PATH."""
    try:
        implementation, version, has_venv = json.loads(output_of(engine, tag, ["python3", "-c", QUESTION]))
    except PackageError as error:
        if "exec format error" in str(error):
            raise PackageError(
                f"this machine cannot run programs for {target.platform}, so it cannot build an image for it. Build "
                "on a machine that can, or install an emulator: sudo apt-get install qemu-user-static binfmt-support."
            ) from None
        raise PackageError(f"the base image {tag} cannot be used: {error} {hint(target)}") from None
    except (ValueError, TypeError):
        raise PackageError(f"the python3 of the base image {tag} gives no usable answer. {hint(target)}") from None
    python = ".".join(map(str, version))
    # It becomes part of a lock's file name.
    if not PYTHON.fullmatch(python):
        raise PackageError(f"the python3 of the base image {tag} gives no usable answer. {hint(target)}")
    if implementation != "CPython":
        raise PackageError(f"the base image {tag} has {implementation}; CPython is needed. {hint(target)}")
    # Packages for TensorRT are unpacked on the host, so no venv is needed.
    if target.gpu is None and not has_venv:
        raise PackageError(
            f"the base image {tag} has Python {python} without venv (Debian: python3-venv). {hint(target)}"
        )
    return python


def base_without_engine(target: Target, base_image: str | None, missing: str) -> BaseImage:
    """Return the base of a context that is built elsewhere; raise `EngineMissing`, beginning with `missing`."""
    base = look_up_base(target, base_image)
    if base is None:
        raise EngineMissing(
            f"{missing} Without one the Python in {base_image} is unknown, so no build context was written; "
            "leave out --base-image to get one."
        )
    return base
