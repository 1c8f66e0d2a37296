"""The build context: one folder with everything an image is made of, to be built here or on another machine."""

import json
import os
import shlex
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import targets
from pipeline.artifacts import AccuracyReport, Fallback
from pipeline.package.labels import SEAL
from pipeline.package.wheels import unpack_wheels
from pipeline.validate.published import report_json
from targets.base_images import BaseImage
from targets.device.files import FIRST_START, SHARD
from targets.device.gate import report as proof
from targets.device.model import golden, manifest
from targets.device.model.manifest import read_manifest
from targets.device.model.seal import VARIABLE, write_seal
from targets.shipped import shipped

DOCKERFILES = {"onnxruntime": "onnxruntime.Dockerfile", "tensorrt": "tensorrt.Dockerfile"}
GRPC_PORT = 8001
"""gRPC port inside the container; publishing it is optional."""
# Device code that an image with ONNX Runtime never imports.
TENSORRT_ONLY = ("tensorrt", "nvidia", "sensors/nvml.py")
# Code and the status page; generated files (caches, a generator's input) are left out.
SHIPPED_KINDS = (".py", ".html")
# The context contains the image's files below its root, with their parent folders; see the Dockerfile.
DEVICE = Path("device/opt/edge-deploy/device")
MODEL = Path("model/opt/edge-deploy/model")
PACKAGES = Path("packages/opt/edge-deploy/packages")
CACHE = Path("cache/var/cache/edge-deploy")


@dataclass(frozen=True, kw_only=True)
class FirstStart:
    """Criteria by which an image judges the engine it has built, before it serves."""

    shard: Path
    max_drop: float
    """Points of top-1."""
    confidence: float
    """Of the gate's bounds."""
    undecided: Literal["stop", "package"]
    """Whether to serve an engine if the shard's images are too few to decide."""
    fallback: Fallback
    """Engines to build besides the main model's."""

    def to_json(self) -> str:
        facts = {
            "schema": 1,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "undecided": self.undecided,
            "fallback": self.fallback,
        }
        return json.dumps(facts, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Runtime environment of the model in the image."""

    base: BaseImage
    wheels: Path
    """Folder with the lock's wheels."""
    lock: Path
    grpc: bool = False
    """Whether the server also listens for gRPC; this needs the gRPC lock and wheels."""


def write_context(
    folder: Path,
    *,
    artifact: Path,
    report: AccuracyReport,
    environment: Environment,
    labels: Mapping[str, str],
    beside: Mapping[str, tuple[Path, AccuracyReport]] | None = None,
    first_start: FirstStart | None = None,
) -> None:
    """Write the folder, replacing its content; the same content gives the same bytes and times.

    `beside`: alternative models of the image, each with its own report, by folder name. Only an image for
    TensorRT has a `first_start`.
    """
    # It imports the Docker SDK, which callers that only need the code should not wait for.
    from pipeline.containers.engine import FIXED_TIME

    described = read_manifest(artifact)
    shutil.rmtree(folder, ignore_errors=True)
    if first_start is None:
        _copy_wheels(environment.wheels, environment.lock, folder)
    else:
        unpack_wheels(environment.wheels, folder / PACKAGES)
        (folder / CACHE).mkdir(parents=True)
        # Some ways to copy the context to another machine drop empty folders.
        (folder / CACHE / ".keep").touch()
    _copy_device_code(folder / DEVICE, leave_out=TENSORRT_ONLY if first_start is None else ())
    _copy_model(artifact, report, folder / MODEL)
    for name, other in (beside or {}).items():
        _copy_model(*other, folder / MODEL / name)
    if first_start is not None:
        shutil.copyfile(first_start.shard, folder / MODEL / SHARD)
        (folder / MODEL / FIRST_START).write_text(first_start.to_json())
    seal = _seal(folder / MODEL, beside or {})
    template = shipped(DOCKERFILES[described.runtime]).read_text()
    (folder / "Dockerfile").write_text(
        _complete_dockerfile(_with_grpc(template) if environment.grpc else template, environment.base, labels, seal)
    )
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (FIXED_TIME, FIXED_TIME))


def build_command(context: Path, tag: str) -> str:
    """Return the command that builds the context elsewhere."""
    return shlex.join(["docker", "build", "--network", "none", "--tag", tag, str(context)])


def _copy_model(artifact: Path, report: AccuracyReport, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (manifest.FILE, read_manifest(artifact).model_file, golden.FILE):
        shutil.copyfile(artifact / name, folder / name)
    (folder / proof.FILE).write_text(report_json(report), encoding="utf-8")


def _seal(model: Path, beside: Iterable[str]) -> str:
    """Seal the model's folder; its subfolders first, separately, as a server may be given one of them."""
    for name in beside:
        write_seal(model / name)
    return write_seal(model)


def _copy_wheels(wheels: Path, lock: Path, folder: Path) -> None:
    """Copy the files for the image's Python environment."""
    (folder / "wheels").mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.copyfile(wheel, folder / "wheels" / wheel.name)
    shutil.copyfile(lock, folder / "wheels" / "requirements.txt")
    for name in ("install.py", "surplus.txt"):
        shutil.copyfile(shipped(name), folder / name)


def _copy_device_code(folder: Path, *, leave_out: tuple[str, ...]) -> None:
    (folder / "targets").mkdir(parents=True)
    shutil.copyfile(Path(targets.__path__[0]) / "__init__.py", folder / "targets" / "__init__.py")
    for name, source in device_code(leave_out).items():
        copied = folder / "targets" / "device" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copied)


def device_code(leave_out: Iterable[str] = ()) -> dict[str, Path]:
    """Return the files that an image runs, by name relative to `targets/device`, without these folders and files."""
    code = Path(targets.__path__[0]) / "device"
    unwanted = {code / name for name in leave_out}
    found = (path for path in sorted(code.rglob("*")) if path.suffix in SHIPPED_KINDS)
    return {path.relative_to(code).as_posix(): path for path in found if not unwanted & {path, *path.parents}}


def _with_grpc(template: str) -> str:
    """Add gRPC's port to the Dockerfile's lines with HTTP's port."""
    text = template
    for line, longer in (
        ("    PORT=8000\n", f"    PORT=8000 \\\n    GRPC_PORT={GRPC_PORT}\n"),
        ("\nEXPOSE 8000\n", f"\nEXPOSE 8000 {GRPC_PORT}\n"),
    ):
        if line not in text:
            raise AssertionError(f"the Dockerfile has no line {line.strip()}")
        text = text.replace(line, longer, 1)
    return text


def _complete_dockerfile(template: str, base: BaseImage, labels: Mapping[str, str], seal: str) -> str:
    """Add the base and, at the end, seal and labels to the Dockerfile: they change most often and contain no file.

    All labels go into one instruction, as each one costs the engine's classic builder a container.
    """
    if "\nARG BASE\n" not in template:
        raise AssertionError("the Dockerfile has no line ARG BASE")
    text = template.replace("\nARG BASE\n", f"\nARG BASE={base.tag}\n", 1)
    # Also as a variable: a server cannot read labels.
    return text + f"ENV {VARIABLE}={seal}\n" + label_line({**labels, SEAL: seal})


def label_line(labels: Mapping[str, str]) -> str:
    """Return one Dockerfile instruction, or nothing without labels."""
    pairs = [f"{key}={_quote(value)}" for key, value in sorted(labels.items())]
    return f"LABEL {' '.join(pairs)}\n" if pairs else ""


def _quote(value: str) -> str:
    """Return a Dockerfile string: quoted as in JSON, with dollar signs escaped."""
    return json.dumps(value, ensure_ascii=False).replace("$", "\\$")
