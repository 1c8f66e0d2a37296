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
from pipeline.artifacts import AccuracyReport
from pipeline.bases import BaseImage
from pipeline.engine import FIXED_TIME
from pipeline.fallback import Fallback
from pipeline.labels import SEAL
from pipeline.publish import report_json
from pipeline.shipped import shipped
from pipeline.unpack import unpack_wheels
from targets.device import golden, manifest, page, proof
from targets.device.files import FIRST_START, SHARD
from targets.device.manifest import read_manifest
from targets.device.seal import VARIABLE, write_seal

DOCKERFILES = {"onnxruntime": "onnxruntime.Dockerfile", "tensorrt": "tensorrt.Dockerfile"}
GRPC_PORT = 8001
"""In a container whose image speaks gRPC; outside it is published, or not, as any other."""
# Of the device code, what an image of ONNX Runtime never imports.
TENSORRT_ONLY = ("trt_*.py", "cudart.py", "layer_report.py", "machine.py", "nvml.py", "passport.py")
# In the context lies what an image has below its root, parents included; see the Dockerfile.
DEVICE = Path("device/opt/edge-deploy/device")
MODEL = Path("model/opt/edge-deploy/model")
PACKAGES = Path("packages/opt/edge-deploy/packages")
CACHE = Path("cache/var/cache/edge-deploy")


@dataclass(frozen=True, kw_only=True)
class FirstStart:
    """By what an image judges the engine it has built, before it serves."""

    shard: Path
    max_drop: float
    """Points of top-1."""
    confidence: float
    """Of the gate's bounds."""
    undecided: Literal["stop", "package"]
    """Whether an engine is served that the shard's images are too few to decide on."""
    fallback: Fallback
    """Which engines it builds besides the main model's."""

    def to_json(self) -> str:
        facts = {
            "schema": 1,
            "max_drop": self.max_drop,
            "confidence": self.confidence,
            "undecided": self.undecided,
            "fallback": self.fallback,
        }
        return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def write_context(
    folder: Path,
    *,
    artifact: Path,
    report: AccuracyReport,
    base: BaseImage,
    wheels: Path,
    lock: Path,
    grpc: bool = False,
    labels: Mapping[str, str],
    beside: Mapping[str, tuple[Path, AccuracyReport]] | None = None,
    first_start: FirstStart | None = None,
) -> None:
    """Write the folder, replacing what is there; the same content gives the same bytes and times.

    With `grpc` the image listens for it, which takes the lock and the wheels that have it. `beside`: other models that
    the image may run in the artifact's place, each with its own report, by their folders' names. An image of TensorRT,
    and no other, has a `first_start`.
    """
    described = read_manifest(artifact)
    shutil.rmtree(folder, ignore_errors=True)
    if first_start is None:
        _copy_wheels(wheels, lock, folder)
    else:
        unpack_wheels(wheels, folder / PACKAGES)
        (folder / CACHE).mkdir(parents=True)
        # Not every way to another machine takes an empty folder along.
        (folder / CACHE / ".keep").touch()
    _copy_device_code(folder / DEVICE, leave_out=TENSORRT_ONLY if first_start is None else ())
    _copy_model(artifact, report, folder / MODEL)
    for name, other in (beside or {}).items():
        _copy_model(*other, folder / MODEL / name)
    if first_start is not None:
        shutil.copyfile(first_start.shard, folder / MODEL / SHARD)
        (folder / MODEL / FIRST_START).write_text(first_start.to_json())
    seal = _sealed(folder / MODEL, beside or {})
    template = shipped(DOCKERFILES[described.runtime]).read_text()
    (folder / "Dockerfile").write_text(_completed(_with_grpc(template) if grpc else template, base, labels, seal))
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (FIXED_TIME, FIXED_TIME))


def build_command(context: Path, tag: str) -> str:
    """What builds the context elsewhere."""
    return shlex.join(["docker", "build", "--network", "none", "--tag", tag, str(context)])


def _copy_model(artifact: Path, report: AccuracyReport, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in (manifest.FILE, read_manifest(artifact).model_file, golden.FILE):
        shutil.copyfile(artifact / name, folder / name)
    (folder / proof.FILE).write_text(report_json(report), encoding="utf-8")


def _sealed(model: Path, beside: Iterable[str]) -> str:
    """Seal the model's folder; those in it first and by themselves, as a server may be given one of them."""
    for name in beside:
        write_seal(model / name)
    return write_seal(model)


def _copy_wheels(wheels: Path, lock: Path, folder: Path) -> None:
    """What the image's build makes its Python environment from."""
    (folder / "wheels").mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.copyfile(wheel, folder / "wheels" / wheel.name)
    shutil.copyfile(lock, folder / "wheels" / "requirements.txt")
    for name in ("install.py", "surplus.txt"):
        shutil.copyfile(shipped(name), folder / name)


def _copy_device_code(folder: Path, *, leave_out: tuple[str, ...]) -> None:
    package = Path(targets.__path__[0])
    device = folder / "targets" / "device"
    device.mkdir(parents=True)
    shutil.copyfile(package / "__init__.py", folder / "targets" / "__init__.py")
    code = package / "device"
    left_out = {source for pattern in leave_out for source in code.glob(pattern)}
    for source in (*sorted(set(code.glob("*.py")) - left_out), code / page.FILE):
        shutil.copyfile(source, device / source.name)


def _with_grpc(template: str) -> str:
    """The Dockerfile with gRPC's port in the lines that name HTTP's."""
    text = template
    for line, longer in (
        ("    PORT=8000\n", f"    PORT=8000 \\\n    GRPC_PORT={GRPC_PORT}\n"),
        ("\nEXPOSE 8000\n", f"\nEXPOSE 8000 {GRPC_PORT}\n"),
    ):
        if line not in text:
            raise AssertionError(f"the Dockerfile has no line {line.strip()}")
        text = text.replace(line, longer, 1)
    return text


def _completed(template: str, base: BaseImage, labels: Mapping[str, str], seal: str) -> str:
    """The Dockerfile with its base and, last, seal and labels: they change most often and hold no file.

    All labels in one instruction, as each one costs the engine's classic builder a container.
    """
    if "\nARG BASE\n" not in template:
        raise AssertionError("the Dockerfile has no line ARG BASE")
    text = template.replace("\nARG BASE\n", f"\nARG BASE={base.tag}\n", 1)
    # As a variable, too: a server can read no label.
    return text + f"ENV {VARIABLE}={seal}\n" + label_line({**labels, SEAL: seal})


def label_line(labels: Mapping[str, str]) -> str:
    """One instruction of a Dockerfile, nothing where there are none."""
    pairs = [f"{key}={_quoted(value)}" for key, value in sorted(labels.items())]
    return f"LABEL {' '.join(pairs)}\n" if pairs else ""


def _quoted(value: str) -> str:
    """A Dockerfile's string: quoted as in JSON, and no variable is meant by a dollar sign."""
    return json.dumps(value, ensure_ascii=False).replace("$", "\\$")
