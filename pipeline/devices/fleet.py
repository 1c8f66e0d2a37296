"""Work on many devices in parallel: each has its own thread, time limit and error."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pipeline.devices.delivered import Delivered
from pipeline.devices.delivery import Work
from pipeline.devices.inventory import Device
from pipeline.devices.job import Job
from pipeline.devices.ssh import Stop
from pipeline.progress import Advance, Progress, Silent
from pipeline.validate.published import DEVICES
from pipeline.workspace.store import child

MAX_AT_ONCE = 64

T = TypeVar("T")


class Named:
    """Progress of one device among others: its name before each line, and no bars, as there can only be one."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._name = progress, name

    def line(self, text: str) -> None:
        self._progress.line(f"{self._name}: {text}")

    def detail(self, text: str) -> None:
        self._progress.detail(f"{self._name}: {text}")

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        with Silent().task(name, total) as advance:
            yield advance


def run_on_all(devices: Sequence[Device], work: Callable[[Device, Stop], T]) -> list[T]:
    """Run `work` on every device in parallel; return results in their order. An interrupt ends all of it."""
    stop = Stop()
    with ThreadPoolExecutor(max_workers=max(1, min(len(devices), MAX_AT_ONCE))) as threads:
        futures = [threads.submit(work, device, stop) for device in devices]
        try:
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def deliver(devices: Sequence[Device], work: Work, *, published: Path, progress: Progress) -> list[Delivered]:
    """Build and prove on every device; each proof is stored in `published`/devices/<name>."""
    folder = published / DEVICES
    folder.mkdir(parents=True, exist_ok=True)

    def one(device: Device, stop: Stop) -> Delivered:
        said = Named(progress, device.name)
        done = Job(device, work, folder=child(folder, device.name), progress=said, stop=stop).run()
        if done.error is not None:
            said.line(f"error: {done.error}")
        return done

    return run_on_all(devices, one)
