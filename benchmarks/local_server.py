"""Server processes on free loopback ports, for the benchmark scripts."""

import http.client
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"
ROOT = Path(__file__).parent.parent
READY_SECONDS = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def started(
    command: Sequence[str],
    *,
    port: int,
    log: Path,
    settings: Mapping[str, str],
    folder: Path = ROOT,
    is_tls: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server, wait for `GET /v2/health/ready`, and stop it on exit."""
    with (
        log.open("wb") as written,
        subprocess.Popen(
            command, cwd=folder, env={**os.environ, **settings}, stdout=written, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_until_ready(process, port, log, is_tls=is_tls)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def own_server(
    artifact: Path, *, port: int, log: Path, extra: Mapping[str, str] | None = None, is_tls: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """Start Edge Deploy's server of an artifact folder, as in the image, with `extra` environment variables."""
    settings = {
        "MODEL_FOLDER": str(artifact.resolve()),
        "HOST": HOST,
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "LOG_LEVEL": "error",
        "OPENBLAS_NUM_THREADS": "1",
        **(extra or {}),
    }
    command = [sys.executable, "-m", "targets.device", "serve"]
    with started(command, port=port, log=log, settings=settings, is_tls=is_tls) as process:
        yield process


def connect(port: int, *, timeout: float, is_tls: bool = False) -> http.client.HTTPConnection:
    """Return a client of a local server; certificates are not verified, because the script created them."""
    if is_tls:
        return http.client.HTTPSConnection(HOST, port, timeout=timeout, context=ssl._create_unverified_context())
    return http.client.HTTPConnection(HOST, port, timeout=timeout)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path, *, is_tls: bool) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        connection = connect(port, timeout=5, is_tls=is_tls)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.05)
    raise SystemExit(f"the server did not become ready. Its log:\n{log.read_text(errors='replace')[-2000:]}")


def resident_mib(process: int) -> float:
    """Return the resident memory of a process and its children; shared pages count for each."""
    status = Path(f"/proc/{process}/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return own / 1024 + sum(resident_mib(int(child)) for child in children)
