"""Measure photos per second of the server with one and several instances, and of the bare session with Pillow:

    python benchmarks/measure_instances.py ARTIFACT PHOTO... [--clients 8]

The bare session is used by one thread per core of this process, each of which decodes and preprocesses a photo and
runs the shared session. Clients are threads of this process, so they use part of the same cores.
"""

import argparse
import http.client
import itertools
import json
import os
import statistics
import struct
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from local_server import HOST, free_port, own_server, resident_mib

from pipeline.benchmarking.image import latencies, per_second, percentiles
from pipeline.cli.output import print_table
from targets.device.model.image_files import decode
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.model.preprocess import preprocess
from targets.device.model.session import Session
from targets.device.open_session import open_session
from targets.device.server.protocol import LENGTH_HEADER

ROUNDS, ROUND_SECONDS, LATENCY_SECONDS, LEAST = 5, 3.0, 20.0, 100


class PhotoClient:
    """A connection that sends encoded image files."""

    def __init__(self, port: int, manifest: Manifest, photos: list[bytes]) -> None:
        self._requests = itertools.cycle([_request(photo) for photo in photos])
        self._path = f"/v2/models/{manifest.name}/infer"
        self._connection = http.client.HTTPConnection(HOST, port, timeout=60)

    def ask(self) -> None:
        length, body = next(self._requests)
        self._connection.request("POST", self._path, body, {LENGTH_HEADER: str(length)})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"{self._path} answered {response.status}: {answer[:500].decode(errors='replace')}")


def _request(photo: bytes) -> tuple[int, bytes]:
    tail = struct.pack("<I", len(photo)) + photo
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(tail)}}
    header = json.dumps({"inputs": [entry]}).encode()
    return len(header), header + tail


def bare(session: Session, manifest: Manifest, photos: list[bytes]) -> Callable[[], object]:
    files, how = itertools.cycle(photos), manifest.preprocessing

    def call() -> object:
        return session.infer(preprocess(decode(next(files), shorter_side=how.shorter_side), how)[None])

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT")
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    manifest = read_manifest(arguments.artifact)
    photos = [path.read_bytes() for path in arguments.photos]
    cores = len(os.sched_getaffinity(0))
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session = stack.enter_context(open_session(arguments.artifact, manifest))
        makers: dict[str, tuple[int, Callable[[], Callable[[], object]]]] = {
            f"session and Pillow, {cores} threads": (cores, lambda: bare(session, manifest, photos))
        }
        processes = {}
        for instances in sorted({1, cores}):
            port = free_port()
            extra = {"INSTANCES": str(instances)}
            name = f"ours, INSTANCES={instances}"
            log = scratch / f"{instances}.log"
            processes[name] = stack.enter_context(own_server(arguments.artifact, port=port, log=log, extra=extra)).pid
            makers[name] = (arguments.clients, lambda port=port: PhotoClient(port, manifest, photos).ask)
        measure(makers, processes)


def measure(makers: dict[str, tuple[int, Callable[[], Callable[[], object]]]], processes: dict[str, int]) -> None:
    found = latencies([make() for _, make in makers.values()], seconds=LATENCY_SECONDS, least=LEAST)
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for _ in range(ROUNDS):
        for name, (callers, make) in makers.items():
            rates[name].append(per_second([make() for _ in range(callers)], ROUND_SECONDS))
    rows = []
    for (name, (callers, _)), seconds in zip(makers.items(), found, strict=True):
        times = percentiles(seconds)
        resident = f"{resident_mib(processes[name]):.0f}" if name in processes else "-"
        rate = statistics.median(rates[name])
        rows.append((name, f"{times.p50_ms:.2f}", f"{times.p99_ms:.2f}", str(callers), f"{rate:.0f}", resident))
    print_table("one photo a request", ("", "p50 ms", "p99 ms", "at a time", "requests/s", "MiB"), rows)


if __name__ == "__main__":
    main()
