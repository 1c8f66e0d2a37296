"""Check all devices at once, without changing anything on them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.devices.fleet import Named, run_on_all
from pipeline.devices.inventory import Device
from pipeline.devices.requirements import USUAL, Needs, Survey, survey
from pipeline.devices.ssh import Connection, Stop
from pipeline.errors import DeployError, worst_of
from pipeline.progress import Progress
from targets.base_images import look_up_base
from targets.target import Target, find_target

LONGEST_SECONDS = 90.0


@dataclass(frozen=True, kw_only=True)
class Checkup:
    device: Device
    survey: Survey | None
    error: DeployError | None
    seconds: float


def check_all(
    devices: Sequence[Device],
    *,
    base_image: str | None = None,
    needs: Mapping[str, Needs] = USUAL,
    progress: Progress,
) -> list[Checkup]:
    """Check in the devices' order; each has a target. Raises no error of ours: errors are in the result.

    `needs` is the disk space for each runtime.
    """

    def one(device: Device, stop: Stop) -> Checkup:
        started = time.monotonic()
        limited = replace(device, timeout=min(device.timeout, LONGEST_SECONDS))
        found: Survey | None = None
        failed: DeployError | None = None
        try:
            assert device.target is not None, "a device without a target cannot be checked"
            target = find_target(device.target)
            base = look_up_base(target, base_image)
            with Connection(
                limited, deadline=started + limited.timeout, progress=Named(progress, device.name), stop=stop
            ) as connection:
                tag = base.tag if base is not None else (base_image or "")
                found = survey(connection, device, target, base=tag, needs=needs[target.runtime])
        except DeployError as error:
            failed = error
        return Checkup(device=device, survey=found, error=failed, seconds=time.monotonic() - started)

    return run_on_all(devices, one)


def stop_if_none_is_ready(
    devices: Mapping[Target, Sequence[Device]], *, base_image: str | None, progress: Progress
) -> None:
    """Raise the worst error if no device is ready; otherwise print the errors as warnings."""
    asked = [replace(device, target=target.name) for target, those in devices.items() for device in those]
    # The size of what is sent is not known yet, so its disk space is not checked.
    nothing = dict.fromkeys(USUAL, Needs(work=0, docker=0, base=0))
    found = check_all(asked, base_image=base_image, needs=nothing, progress=progress)
    for each in found:
        if each.error is not None:
            progress.line(f"warning: {each.error}")
    errors = [each.error for each in found if each.error is not None]
    worst = worst_of(errors)
    if worst is not None and len(errors) == len(found):
        raise worst
