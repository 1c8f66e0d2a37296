"""Ask a device what it is, and hold that against its target."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.remote.connection import Connection
from pipeline.remote.device import Device
from pipeline.remote.facts import Facts, read_facts
from pipeline.remote.failure import understanding
from pipeline.remote.fitness import Needs, check
from targets.base import Target

SCRIPT = Path(__file__).parent / "preflight.sh"


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A device that can do what its target asks."""

    facts: Facts
    notes: tuple[str, ...]
    """What belongs beside every figure of it, such as a power mode that is not the highest."""


def survey(connection: Connection, device: Device, target: Target, *, base: str, needs: Needs) -> Survey:
    """Raises `DeviceUnfit`, `CommandMissing` or `DeviceDiskFull` with the cure; `base` is the base image's tag."""
    answer = connection.run("asking what it is", SCRIPT.read_text(), base).stdout
    with understanding(device, "its answer about itself"):
        facts = read_facts(answer)
        return Survey(facts=facts, notes=tuple(check(device, facts, target, needs)))
