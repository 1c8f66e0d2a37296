"""`deploy bench IMAGE`: latency and throughput of the image's server, beside the raw session of the same model.

Both are measured in turn in one run, block by block, so that other load slows them equally. The difference
is the protocol's cost: HTTP, parsing, thread handover to the model and back, and the client's own part.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from docker.models.containers import Container
from numpy.typing import NDArray

from pipeline.containers.client import InferenceClient
from pipeline.containers.container import MODEL_FOLDER, Started, copy_out, started
from pipeline.containers.engine import Engine, connect, engine_call
from pipeline.errors import PackageError
from pipeline.progress import Progress
from targets.device.errors import SessionError
from targets.device.model.manifest import ManifestError, read_manifest
from targets.device.model.session import Inference
from targets.device.model.variant import FOLDER, SATURATION_SAFE
from targets.device.open_session import open_session

MEBIBYTE = 1 << 20
BLOCK_SECONDS = 0.02
WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Duration of the measurement."""

    latency_seconds: float = 8.0
    """For server and raw session together."""
    least_requests: int = 200
    """The 99th percentile needs at least this many."""
    throughput_rounds: int = 3
    round_seconds: float = 2.0


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class ImageBench:
    image: str
    ready_seconds: float
    """Since the start of the container was requested."""
    idle_mib: float
    """Anonymous and mapped memory of the container's control group, before the first request."""
    load_mib: float
    """The maximum observed under load by all clients."""
    requests: int
    """Of one client, at batch 1."""
    server: Percentiles
    raw: Percentiles
    """The same model in this process, without any protocol."""
    clients: int
    server_per_second: float
    raw_per_second: float
    """One caller in this process, without any protocol."""

    @property
    def overhead_ms(self) -> float:
        return self.server.p50_ms - self.raw.p50_ms

    @property
    def throughput_share(self) -> float:
        return self.server_per_second / self.raw_per_second


def bench_image(image: str, *, clients: int, progress: Progress, effort: Effort | None = None) -> ImageBench:
    """Start a container of `image` and measure it; raise `PackageError` if there is none or it refuses."""
    engine = connect()
    try:
        if engine.id_of(image) is None:
            raise PackageError(f"{image} is neither a folder nor an image here. `deploy status` lists the artifacts.")
        with (
            started(engine, image, progress=progress) as server,
            raw_session(server, image) as (raw, shape),
        ):
            return _measure(engine, image, server, raw, one_image(shape), clients, effort or Effort(), progress)
    finally:
        engine.close()


@contextmanager
def raw_session(server: Started, image: str) -> Iterator[tuple[Inference, tuple[int, int, int]]]:
    """Open the image's model with its own options in this process; yield it with the shape of its images."""
    with tempfile.TemporaryDirectory(prefix="edge-deploy-") as scratch:
        copy_out(server.container, image, MODEL_FOLDER, Path(scratch))
        folder = Path(scratch) / Path(MODEL_FOLDER).name
        try:
            if server.client.variant() == SATURATION_SAFE:
                folder /= FOLDER
            manifest = read_manifest(folder)
            with open_session(folder, manifest) as session:
                yield session, manifest.input_shape
        except (ManifestError, SessionError) as error:
            raise PackageError(f"the model of {image} cannot be opened on this machine: {error}") from None


def one_image(shape: Sequence[int]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)


def _measure(
    engine: Engine,
    image: str,
    server: Started,
    raw: Inference,
    batch: NDArray[np.float32],
    clients: int,
    effort: Effort,
    progress: Progress,
) -> ImageBench:
    idle = memory_mib(engine, server.container)
    progress.line("latency of one client, beside the raw session")
    answered, computed = latencies(
        [lambda: server.client.infer(batch), lambda: raw.infer(batch)],
        seconds=effort.latency_seconds,
        least=effort.least_requests,
    )
    progress.line(f"throughput of {clients} clients, beside the raw session")
    served, raw_rates, memory = [], [], idle
    for _ in range(effort.throughput_rounds):
        rate, seen = _throughput_of_server(engine, server, batch, clients, effort.round_seconds)
        served.append(rate)
        memory = max(memory, seen)
        raw_rates.append(per_second([lambda: raw.infer(batch)], effort.round_seconds))
    return ImageBench(
        image=image,
        ready_seconds=server.ready_seconds,
        idle_mib=idle,
        load_mib=memory,
        requests=len(answered),
        server=percentiles(answered),
        raw=percentiles(computed),
        clients=clients,
        server_per_second=statistics.median(served),
        raw_per_second=statistics.median(raw_rates),
    )


def memory_mib(engine: Engine, container: Container) -> float:
    """Return the container's resident memory by its control group; raise `PackageError` if it is not accounted."""
    with engine_call("read the memory of a container"):
        return resident_mib(engine.client.api.stats(str(container.id), stream=False, one_shot=True)["memory_stats"])


def resident_mib(memory_stats: Mapping[str, Any]) -> float:
    """Return anonymous and mapped memory from the engine's statistics; raise `PackageError` if they are missing."""
    counted = memory_stats.get("stats", {})
    # Version 1 of control groups has totals including children, version 2 has other names.
    anonymous = counted.get("total_rss", counted.get("anon"))
    mapped = counted.get("total_mapped_file", counted.get("file_mapped"))
    if anonymous is None or mapped is None:
        raise PackageError(
            "the Docker engine does not account its containers' memory: the memory controller of control groups is "
            "off on this machine (on a Raspberry Pi, add cgroup_enable=memory to the kernel's command line)."
        )
    return float(anonymous + mapped) / MEBIBYTE


def latencies(calls: Sequence[Callable[[], object]], *, seconds: float, least: int = 1) -> tuple[list[float], ...]:
    """Return the seconds of each call, all in turn in blocks, for `seconds` and at least `least` calls each."""
    found: tuple[list[float], ...] = tuple([] for _ in calls)
    blocks = [_block(call) for call in calls]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or min(map(len, found)) < least:
        for call, block, times in zip(calls, blocks, found, strict=True):
            times.extend(_time_call(call) for _ in range(block))
    return found


def percentiles(seconds: Sequence[float]) -> Percentiles:
    half, most, tail = np.percentile(seconds, (50, 90, 99)) * 1e3
    return Percentiles(p50_ms=float(half), p90_ms=float(most), p99_ms=float(tail))


def per_second(calls: Sequence[Callable[[], object]], seconds: float) -> float:
    """Return calls per second when each of `calls` is repeated by its own thread."""
    start = time.perf_counter()
    deadline = start + seconds

    def count(call: Callable[[], object]) -> int:
        number = 0
        while time.perf_counter() < deadline:
            call()
            number += 1
        return number

    with ThreadPoolExecutor(len(calls)) as threads:
        total = sum(threads.map(count, calls))
    return total / (time.perf_counter() - start)


def _throughput_of_server(
    engine: Engine, server: Started, batch: NDArray[np.float32], clients: int, seconds: float
) -> tuple[float, float]:
    """Return requests per second, and the memory half-way."""
    asking = [server.client.another() for _ in range(clients)]
    try:
        with ThreadPoolExecutor(1) as watch:
            memory = watch.submit(_after, seconds / 2, lambda: memory_mib(engine, server.container))
            rate = per_second([_request(client, batch) for client in asking], seconds)
            return rate, memory.result()
    finally:
        for client in asking:
            client.close()


def _request(client: InferenceClient, batch: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: client.infer(batch)


def _after(seconds: float, look: Callable[[], float]) -> float:
    time.sleep(seconds)
    return look()


def _block(call: Callable[[], object]) -> int:
    return max(1, round(BLOCK_SECONDS / min(_time_call(call) for _ in range(WARM_UP))))


def _time_call(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return max(time.perf_counter() - start, 1e-9)
