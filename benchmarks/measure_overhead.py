"""Measure the protocol's overhead at batch 1: the server with NVIDIA's client, the raw session and an echo server.

    python benchmarks/measure_overhead.py                       a network of ResNet-20's size with random weights
    python benchmarks/measure_overhead.py --artifact FOLDER     an artifact of `deploy build`

All are measured interleaved in one run: `session` in this process; `server` through tritonclient.http with binary
tensors; `echo`, which answers every request from the same client with the same bytes. Wall time at the client (p50,
p90), and CPU time per request of this process and of the server process.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tritonclient.http as triton
from local_server import HOST, ROOT, free_port
from numpy.typing import NDArray
from random_artifact import write_random_artifact

from targets.device.healthcheck import is_ready
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.open_session import open_session

# Answers each request with the given bytes; no HTTP library, no threads.
ECHO = """
import asyncio, re, sys
answer = open(sys.argv[2], "rb").read()
class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        head, found, body = self.data.partition(b"\\r\\n\\r\\n")
        if found and len(body) >= int(re.search(rb"(?i)content-length: *(\\d+)", head).group(1)):
            self.data = b""
            self.transport.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="folder with manifest.json, model and golden images")
    parser.add_argument("--rounds", type=int, default=2000, help="requests for each of the three (default: 2000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.artifact or Path(scratch) / "artifact"
        if arguments.artifact is None:
            write_random_artifact("resnet20", folder)
        print(json.dumps(measured(folder, Path(scratch), arguments.rounds), indent=2))


def measured(folder: Path, scratch: Path, rounds: int) -> dict[str, object]:
    """Print the milliseconds per request of the three, and the server's overhead over the session."""
    manifest = read_manifest(folder)
    images = np.random.default_rng(0).standard_normal((1, *manifest.input_shape)).astype(np.float32)
    ports = [free_port(), free_port()]
    (scratch / "answer").write_bytes(echoed(manifest))
    serve = [sys.executable, "-m", "targets.device", "serve"]
    echo = [sys.executable, "-c", ECHO, str(ports[1]), str(scratch / "answer")]
    with (
        open_session(folder, manifest) as session,
        running(serve, MODEL_FOLDER=folder, HOST=HOST, PORT=ports[0], LOG_LEVEL="warning") as server,
        running(echo) as bare,
    ):
        wait_until(lambda: is_ready(ports[0], HOST))
        wait_until(lambda: listens(ports[1]))
        clients = [triton.InferenceServerClient(f"{HOST}:{port}") for port in ports]
        ways: dict[str, tuple[Callable[[], object], int | None]] = {
            "session": (lambda: session.infer(images), None),
            "server": (lambda: ask(clients[0], manifest, images), server.pid),
            "echo": (lambda: ask(clients[1], manifest, images), bare.pid),
        }
        np.testing.assert_allclose(ask(clients[0], manifest, images), session.infer(images), rtol=0, atol=1e-5)
        figures = {name: figures_of(*way) for name, way in interleaved(ways, rounds).items()}
        for client in clients:
            client.close()
    overhead = round(figures["server"]["p50_ms"] - figures["session"]["p50_ms"], 3)
    return {"rounds": rounds, **figures, "overhead_p50_ms": overhead}


def interleaved(
    ways: dict[str, tuple[Callable[[], object], int | None]], rounds: int
) -> dict[str, tuple[list[float], float, float]]:
    """Return wall times and CPU seconds of client and server for each; the first tenth does not count."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    here = dict.fromkeys(ways, 0.0)
    there = dict.fromkeys(ways, 0.0)
    for index in range(-rounds // 10, rounds):
        if index == 0:
            there = {name: -cpu_seconds(process) for name, (_, process) in ways.items()}
        for name, (do, _) in ways.items():
            cpu, start = time.process_time(), time.perf_counter()
            do()
            if index >= 0:
                wall[name].append(time.perf_counter() - start)
                here[name] += time.process_time() - cpu
    there = {name: there[name] + cpu_seconds(process) for name, (_, process) in ways.items()}
    return {name: (wall[name], here[name], there[name]) for name in ways}


def figures_of(wall: list[float], here: float, there: float) -> dict[str, float]:
    ms = 1000 / len(wall)
    return {
        "p50_ms": round(float(np.percentile(wall, 50)) * 1000, 3),
        "p90_ms": round(float(np.percentile(wall, 90)) * 1000, 3),
        "cpu_client_ms": round(here * ms, 3),
        "cpu_server_ms": round(there * ms, 3),
    }


def ask(client: triton.InferenceServerClient, manifest: Manifest, images: NDArray[np.float32]) -> NDArray[np.float32]:
    asked = triton.InferInput("images", list(images.shape), "FP32")
    asked.set_data_from_numpy(images, binary_data=True)
    logits: NDArray[np.float32] = client.infer(manifest.name, [asked]).as_numpy("logits")
    return logits


def echoed(manifest: Manifest) -> bytes:
    """Return a complete HTTP response, with zeros for logits."""
    size = 4 * len(manifest.classes)
    output = {"name": "logits", "shape": [1, len(manifest.classes)], "datatype": "FP32"}
    header = json.dumps({"outputs": [{**output, "parameters": {"binary_data_size": size}}]}).encode()
    head = f"Content-Length: {len(header) + size}\r\nInference-Header-Content-Length: {len(header)}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + head.encode() + header + bytes(size)


def cpu_seconds(process: int | None) -> float:
    """Return the user and system time of another process, measured in kernel ticks."""
    if process is None:
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str], **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    given = {**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in settings.items()}}
    process = subprocess.Popen(command, cwd=ROOT, env=given)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("a server did not become ready within 60 s; its log is above")
        time.sleep(0.05)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


if __name__ == "__main__":
    main()
