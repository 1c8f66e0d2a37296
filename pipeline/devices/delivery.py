"""The work for all devices of one target: the build context, the inputs of the proof, and the judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.artifacts import AccuracyReport
from pipeline.devices.inventory import Device
from pipeline.devices.requirements import USUAL, Needs
from pipeline.devices.store import index_of, index_text
from pipeline.package.build_context import label_line
from pipeline.workspace.hashing import sha256_of_json
from targets.device.files import SHARD
from targets.target import Target

CONTEXT = "context"
# A layer contains the unpacked wheels, about twice their size, and the classic builder keeps the stage it came from.
LAYERS_PER_CONTEXT = 4
SPARE_BYTES = 50 << 20


@dataclass(frozen=True, kw_only=True)
class Work:
    target: Target
    tag: str
    base: str
    """The base image's tag."""
    context: Path
    shard: Path
    judge: Callable[[Path], AccuracyReport]
    """Takes the file with a device's answers, returns the gate's report; `DataError` if they are of another model."""
    describe: Callable[[AccuracyReport, Path], Mapping[str, str]]
    """Takes the report on an image's answers and their file, returns the image's labels."""
    package_undecided: bool
    index: dict[str, tuple[str, int, Path]] = field(init=False)
    """The files to send, see `pipeline.devices.store`."""

    def __post_init__(self) -> None:
        files = {path.relative_to(self.context).as_posix(): path for path in self.context.rglob("*") if path.is_file()}
        named = {f"{CONTEXT}/{name}": path for name, path in files.items()}
        object.__setattr__(self, "index", index_of({**named, SHARD: self.shard}))

    @property
    def key(self) -> str:
        """Return the hash of everything that affects the result, except the device."""
        return sha256_of_json(
            {
                "files": index_text(self.index),
                "target": self.target.name,
                "tag": self.tag,
                "base": self.base,
                "package_undecided": self.package_undecided,
            }
        )

    def job(self, device: Device) -> str:
        """Return a stable name for the work on one device."""
        return sha256_of_json([self.key, device.name])[:16]

    def dockerfile(self, labels: Mapping[str, str]) -> str:
        """Return the context's Dockerfile, with labels at the end that override its own and rebuild no layer."""
        return (self.context / "Dockerfile").read_text(encoding="utf-8") + label_line(labels)

    @property
    def needs(self) -> Needs:
        """Bytes needed on the device."""
        sent = sum({sha: size for sha, size, _path in self.index.values()}.values())
        return Needs(
            work=sent + SPARE_BYTES,
            docker=LAYERS_PER_CONTEXT * sent + SPARE_BYTES,
            base=USUAL[self.target.runtime].base,
        )
