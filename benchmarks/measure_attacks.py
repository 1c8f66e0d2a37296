"""Measure a good client's latency while others attack the server, and without an attack, in one run:

    python benchmarks/measure_attacks.py ARTIFACT [--seconds 10] [--rate 50]

The server gets one half of this process's cores, attackers and the good client the other. Each attack is sustained:
requests that are answered, refused or disconnected are repeated, at most --pace times a second per connection.
"""

import argparse
import http.client
import json
import math
import os
import resource
import selectors
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from local_server import HOST, ROOT, connect, free_port, own_server

from pipeline.table import print_table
from targets.device.manifest import Manifest, read_manifest
from targets.device.protocol import LENGTH_HEADER

sys.path.insert(0, str(ROOT / "tests" / "support"))
from image_bombs import large, plain, scans

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEADERS = b"".join(b"x%d: y\r\n" % number for number in range(97))
SETTLE_SECONDS = 2.0
QUIET_ANSWERS, QUIET_SHARE, MAX_SECONDS = 20, 3.0, 300.0
"""An attack is over after this many consecutive responses within this multiple of the usual latency."""


@dataclass(frozen=True)
class Attack:
    name: str
    connections: int
    # The data of each attack: what it sends first, then what it drips at a byte per second.
    sent: bytes
    is_dripping: bool = False
    is_read: bool = True
    is_repeated: bool = True


def request(manifest: Manifest, header: bytes, tail: bytes = b"") -> bytes:
    path = f"/v2/models/{manifest.name}/infer"
    body = header + tail
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{LENGTH_HEADER}: {len(header)}\r\n\r\n"
    return head.encode() + body


def files_request(manifest: Manifest, files: list[bytes]) -> bytes:
    tail = b"".join(struct.pack("<I", len(file)) + file for file in files)
    entry = {"name": "encoded", "datatype": "BYTES", "shape": [len(files)]}
    header = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(tail)}}]}).encode()
    return request(manifest, header, tail)


def images_request(manifest: Manifest, count: int) -> tuple[bytes, bytes]:
    """Return JSON and tensor of valid black images."""
    images = np.zeros((count, *manifest.input_shape), "<f4").tobytes()
    entry = {"name": "images", "datatype": "FP32", "shape": [count, *manifest.input_shape]}
    header = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(images)}}]}).encode()
    return header, images


def attacks(manifest: Manifest) -> list[Attack]:
    good = request(manifest, *images_request(manifest, 1))
    greedy = request(manifest, b'{"id": "' + b"x" * 8_000_000 + b'"}')
    return [
        Attack("40 bodies of one byte a second", 40, good[:-1000], is_dripping=True),
        Attack(
            "60 bodies that stall before their end", 60, request(manifest, b" " * (1 << 20))[:-1], is_repeated=False
        ),
        Attack("40 ids of 8 MB, no answer read", 40, greedy, is_read=False),
        Attack("1,000 clients that pipeline pages and read nothing", 1000, GET * 3000, is_read=False),
        Attack("500 connections that say nothing", 500, b""),
        Attack("8 clients of PNG 8192 x 8192 RGBA", 8, files_request(manifest, [large("RGBA")])),
        Attack("8 clients of JPEG with 20,000 scans", 8, files_request(manifest, [scans(20_000)])),
        Attack("8 clients of 64 PNG of 16 bits", 8, files_request(manifest, [large("I;16", 3000)] * 64)),
        Attack("8 clients of text images", 8, files_request(manifest, [plain(3000)])),
        Attack("8 clients of the largest PNG that is taken", 8, files_request(manifest, [large("RGB", 8000)])),
        Attack("8 clients of 64 good images", 8, request(manifest, *images_request(manifest, 64))),
        Attack("8 clients of heads of 97 headers", 8, GET[:-2] + HEADERS + b"\r\n"),
    ]


class Attacker:
    """A connection of an attack, reconnected when it is closed."""

    def __init__(self, attack: Attack, port: int, pace: float, selector: selectors.BaseSelector) -> None:
        self._attack, self._port, self._pause, self._selector = attack, port, 1 / pace, selector
        self._socket: socket.socket | None = None
        self._left = memoryview(b"")
        self.due = 0.0

    def begin(self, now: float) -> None:
        """Reconnect if needed, repeat an answered request, and drip bytes."""
        if self._socket is None:
            self._socket = socket.socket()
            self._socket.setblocking(False)
            self._socket.connect_ex((HOST, self._port))
            self._left = memoryview(self._attack.sent)
        elif self._attack.is_dripping and not self._left:
            self._left = memoryview(b" ")
        elif not self._left and self._attack.is_read and self._attack.is_repeated:
            self._left = memoryview(self._attack.sent)
        self.due = now + (1.0 if self._attack.is_dripping else self._pause)
        self._watch()

    def _watch(self) -> None:
        assert self._socket is not None
        events = (selectors.EVENT_WRITE if self._left else 0) | (selectors.EVENT_READ if self._attack.is_read else 0)
        if self._socket in self._selector.get_map():
            self._selector.unregister(self._socket)
        if events:
            self._selector.register(self._socket, events, self)

    def go_on(self, events: int) -> None:
        assert self._socket is not None
        try:
            if events & selectors.EVENT_WRITE:
                self._left = self._left[self._socket.send(self._left) :]
            if events & selectors.EVENT_READ and not self._socket.recv(1 << 16):
                raise ConnectionResetError
        except OSError:
            if self._socket in self._selector.get_map():
                self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
            return
        self._watch()


def attack_until_ended(attack: Attack, port: int, pace: float) -> None:
    selector = selectors.DefaultSelector()
    all_of_it = [Attacker(attack, port, pace, selector) for _ in range(attack.connections)]
    while True:
        now = time.monotonic()
        for each in all_of_it:
            if each.due <= now:
                each.begin(now)
        for key, events in selector.select(0.02):
            key.data.go_on(events)


@contextmanager
def attacked(attack: Attack | None, port: int, pace: float) -> Iterator[None]:
    if attack is None:
        yield
        return
    process = get_context("fork").Process(target=attack_until_ended, args=(attack, port, pace), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def ask(port: int, manifest: Manifest, *, seconds: float, rate: float, is_tls: bool) -> list[float]:
    """Return the milliseconds of each response; a refused or unanswered request counts as infinite."""
    header, images = images_request(manifest, 1)
    body, headers = header + images, {LENGTH_HEADER: str(len(header))}
    path, waits = f"/v2/models/{manifest.name}/infer", []
    made = connect(port, timeout=30, is_tls=is_tls)
    end = due = time.perf_counter()
    end += seconds
    while due < end:
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        try:
            made.request("POST", path, body, headers)
            answer = made.getresponse()
            answer.read()
            waits.append((time.perf_counter() - start) * 1e3 if answer.status == 200 else math.inf)
        except (OSError, http.client.HTTPException):
            made.close()
            waits.append(math.inf)
        due = max(due + 1 / rate, time.perf_counter())
    made.close()
    return waits


def seconds_until_quiet(port: int, manifest: Manifest, usual_ms: float, *, is_tls: bool) -> float:
    """Return the seconds from the end of an attack until the good client's latency is back to normal."""
    start, quick = time.monotonic(), 0
    while quick < QUIET_ANSWERS and time.monotonic() < start + MAX_SECONDS:
        (wait, *_) = ask(port, manifest, seconds=1e-3, rate=1e3, is_tls=is_tls)
        quick = quick + 1 if wait <= QUIET_SHARE * usual_ms else 0
    return time.monotonic() - start


def row(name: str, waits: list[float], base: float, quiet: float) -> tuple[str, ...]:
    p50, p99 = (float(np.quantile(waits, q, method="inverted_cdf")) for q in (0.5, 0.99))
    missed = sum(math.isinf(each) for each in waits)
    times = f"{p99 / base:.1f}" if base else "1"
    return name, f"{p50:.2f}", f"{p99:.2f}", times, str(missed), str(len(waits)), f"{quiet:.1f}"


def certificate(folder: Path) -> dict[str, str]:
    files = {"TLS_CERTIFICATE": str(folder / "server.pem"), "TLS_KEY": str(folder / "server.key")}
    options = ["-subj", "/CN=localhost", "-days", "1", "-keyout", files["TLS_KEY"], "-out", files["TLS_CERTIFICATE"]]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *options], check=True, capture_output=True
    )
    return files


def measure(
    artifact: Path, against: list[Attack], arguments: argparse.Namespace, *, is_tls: bool = False
) -> list[tuple[str, ...]]:
    manifest, port, rows = read_manifest(artifact), free_port(), []
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as scratch:
        extra = certificate(Path(scratch)) if is_tls else {}
        os.sched_setaffinity(0, cores[: max(1, len(cores) // 2)])
        with own_server(artifact, port=port, log=Path(scratch) / "log", extra=extra, is_tls=is_tls):
            os.sched_setaffinity(0, cores[len(cores) // 2 :])
            base = usual = 0.0
            for attack in [None, *against, None]:
                with attacked(attack, port, arguments.pace):
                    time.sleep(SETTLE_SECONDS)
                    waits = ask(port, manifest, seconds=arguments.seconds, rate=arguments.rate, is_tls=is_tls)
                usual = usual or float(np.median(waits))
                quiet = seconds_until_quiet(port, manifest, usual, is_tls=is_tls)
                name = ("none, again" if base else "none") if attack is None else attack.name
                rows.append(row(name + (", TLS" if is_tls else ""), waits, base, quiet))
                base = base or float(rows[-1][2])
        os.sched_setaffinity(0, cores)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds of each attack")
    parser.add_argument("--rate", type=float, default=50.0, help="requests per second of the good client")
    parser.add_argument("--pace", type=float, default=1.0, help="requests a second of each attacker")
    arguments = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = measure(arguments.artifact, attacks(read_manifest(arguments.artifact)), arguments)
    silent = [Attack("500 handshakes that do not begin", 500, b""), Attack("40 clients of rubbish", 40, b"x" * 500)]
    rows += measure(arguments.artifact, silent, arguments, is_tls=True)
    columns = ("attack", "p50 ms", "p99 ms", "times none's", "refused", "requests", "s until quiet")
    print_table(f"A good client of {read_manifest(arguments.artifact).name}", columns, rows)


if __name__ == "__main__":
    main()
