"""Send good and malformed requests from several clients for minutes, and check the server:

    python benchmarks/soak.py --minutes 15 IMAGE|ARTIFACT

Exit code 1 if the server stopped answering or restarted, if a 5xx status had no reason, if a good request was refused
or a malformed one was not, or if memory grew by more than --max-growth MiB.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from local_server import HOST, free_port, own_server, resident_mib

from pipeline.cli.console import progress_for
from pipeline.cli.output import print_table
from targets.device.model.manifest import Manifest, read_manifest
from targets.device.server.protocol import LENGTH_HEADER

# Pools and caches fill during the first requests; after that, memory must not grow.
WARM_UP_SHARE = 0.1
BROKEN_SHARE = 0.3
SECONDS = 60
GONE = 0
"""Status of a request without a response."""
# A full server (429), or one too busy to answer in time (503), gives a reason, which is not a failure.
FULL = (429, 503)


@dataclass(frozen=True)
class Request:
    path: str
    body: bytes
    headers: dict[str, str]
    is_good: bool


@dataclass(frozen=True)
class Answer:
    at: float
    seconds: float
    status: int
    is_good: bool
    has_reason: bool


@dataclass(frozen=True)
class Subject:
    """A running server, and how to observe it."""

    host: str
    port: int
    manifest: Manifest
    memory_mib: Callable[[], float]
    restarts: Callable[[], int]


@dataclass
class Result:
    answers: list[Answer] = field(default_factory=list)
    memory_mib: list[tuple[float, float]] = field(default_factory=list)
    restarts: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", metavar="IMAGE|ARTIFACT")
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rate", type=float, default=40, help="requests per second of all clients together")
    parser.add_argument("--max-growth", type=float, default=24, metavar="MIB")
    arguments = parser.parse_args()
    with running(arguments.subject) as subject:
        result = soak(subject, seconds=arguments.minutes * 60, clients=arguments.clients, rate=arguments.rate)
    report(result, seconds=arguments.minutes * 60)
    wrong = faults(result, max_growth_mib=arguments.max_growth)
    for fault in wrong:
        print(f"fault: {fault}")
    sys.exit(1 if wrong else 0)


@contextmanager
def running(name: str) -> Iterator[Subject]:
    """Start a container of an image, or a process that serves an artifact folder."""
    if not Path(name).is_dir():
        from pipeline.benchmarking.image import memory_mib
        from pipeline.containers.container import started
        from pipeline.containers.engine import connect

        engine = connect()
        with started(engine, name, progress=progress_for(is_verbose=False)) as server:
            host, _, port = server.client.url.removeprefix("http://").partition(":")

            def starts() -> int:
                server.container.reload()
                return int(server.container.attrs["RestartCount"]) + (server.container.status != "running")

            memory = lambda: memory_mib(engine, server.container)  # noqa: E731
            yield Subject(host, int(port), server.client.manifest, memory, starts)
        engine.close()
        return
    with tempfile.TemporaryDirectory() as scratch:
        port_of_own = free_port()
        with own_server(Path(name), port=port_of_own, log=Path(scratch) / "log") as process:
            yield Subject(
                HOST,
                port_of_own,
                read_manifest(Path(name)),
                lambda: resident_mib(process.pid) if process.poll() is None else 0.0,
                lambda: int(process.poll() is not None),
            )


def soak(subject: Subject, *, seconds: float, clients: int, rate: float) -> Result:
    """Send requests for `seconds`, at most `rate` per second."""
    result = Result()
    start = time.monotonic()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(min(5.0, seconds / 20)):
            result.memory_mib.append((time.monotonic() - start, subject.memory_mib()))

    with ThreadPoolExecutor(clients + 1) as threads:
        watching = threads.submit(watch)
        asking = [
            threads.submit(_ask, subject, start, seconds, clients / rate, random.Random(number))
            for number in range(clients)
        ]
        try:
            for each in asking:
                result.answers += each.result()
        finally:
            over.set()
        watching.result()
    result.restarts = subject.restarts()
    return result


def _ask(subject: Subject, start: float, seconds: float, pause: float, pick: random.Random) -> list[Answer]:
    answers = []
    connection = http.client.HTTPConnection(subject.host, subject.port, timeout=SECONDS)
    due = start + pick.random() * pause
    while due < start + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        answers.append(_answer(connection, request(subject.manifest, pick), start))
        # Delays are not made up for: the rate is an upper limit.
        due = max(due + pause, time.monotonic())
    connection.close()
    return answers


def _answer(connection: http.client.HTTPConnection, asked: Request, start: float) -> Answer:
    before = time.monotonic()
    try:
        connection.request("POST", asked.path, asked.body, asked.headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return Answer(before - start, time.monotonic() - before, GONE, asked.is_good, False)
    reason = status == 200 or _gives_reason(body)
    return Answer(before - start, time.monotonic() - before, status, asked.is_good, reason)


def _gives_reason(body: bytes) -> bool:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error, str) and bool(error) and "internal error" not in error


def request(manifest: Manifest, pick: random.Random) -> Request:
    """Return a good request, JSON or binary, with one to four images, or a malformed one of several kinds."""
    shape = [pick.randint(1, 4), *manifest.input_shape]
    images = np.random.default_rng(pick.randrange(2**32)).standard_normal(shape).astype("<f4")
    path = f"/v2/models/{manifest.name}/infer"
    entry: dict[str, object] = {"name": "images", "shape": shape, "datatype": "FP32"}
    if pick.random() < 0.2:
        body = json.dumps({"inputs": [{**entry, "data": images.ravel().round(3).tolist()}]}).encode()
        headers: dict[str, str] = {}
    else:
        tensor = images.tobytes()
        header = json.dumps({"inputs": [{**entry, "parameters": {"binary_data_size": len(tensor)}}]}).encode()
        body, headers = header + tensor, {LENGTH_HEADER: str(len(header))}
    if pick.random() >= BROKEN_SHARE:
        return Request(path, body, headers, is_good=True)
    return pick.choice(BROKEN)(Request(path, body, headers, is_good=False))


# Each is wrong whatever it is done to.
BROKEN: tuple[Callable[[Request], Request], ...] = (
    lambda good: Request(good.path, good.body[:-7], good.headers, False),
    lambda good: Request(good.path, b"[" * 100_000, {}, False),
    lambda good: Request(good.path, b'{"id": "\xff\xfe"}', {}, False),
    lambda good: Request(good.path, good.body.replace(b'"images"', b'"others"'), good.headers, False),
    lambda good: Request(good.path, good.body.replace(b'"FP32"', b'"FP64"'), good.headers, False),
    lambda good: Request(good.path, good.body, {LENGTH_HEADER: "999999999"}, False),
    lambda good: Request(
        good.path, b'{"inputs": [{"name": "images", "shape": [' + b"2147483647, " * 7 + b"1]}]}", {}, False
    ),
    lambda good: Request("/v2/models/nobody/infer", good.body, good.headers, False),
)


def report(result: Result, *, seconds: float) -> None:
    """Print the table to stdout."""
    answers = result.answers
    first, last = first_and_last(result)
    window = min(60.0, seconds / 2)
    early = p99_ms([each for each in answers if each.at < window])
    late = p99_ms([each for each in answers if each.at >= seconds - window])
    statuses = Counter(each.status for each in answers)
    rows = [("requests", str(len(answers))), ("of these good", str(sum(each.is_good for each in answers)))]
    rows += [(f"status {status}" if status else "no answer", str(statuses[status])) for status in sorted(statuses)]
    rows += [
        ("5xx without a reason", str(sum(each.status >= 500 and not each.has_reason for each in answers))),
        ("memory first / last", f"{first:.1f} / {last:.1f} MiB"),
        (f"p99 first / last {window:.0f} s", f"{early:.2f} / {late:.2f} ms"),
        ("restarts", str(result.restarts)),
    ]
    print_table(f"{seconds / 60:.1f} minutes", ("", "count"), rows)


def p99_ms(answers: list[Answer]) -> float:
    """Return the latencies of the answered good requests."""
    seconds = [each.seconds for each in answers if each.is_good and each.status == 200]
    return float(np.percentile(seconds, 99)) * 1e3 if seconds else float("nan")


def first_and_last(result: Result) -> tuple[float, float]:
    """Return the memory after the warm-up and at the end, each the median of three samples."""
    looks = [mib for _, mib in result.memory_mib[int(len(result.memory_mib) * WARM_UP_SHARE) :]]
    if not looks:
        return float("nan"), float("nan")
    return float(np.median(looks[:3])), float(np.median(looks[-3:]))


def faults(result: Result, *, max_growth_mib: float) -> list[str]:
    """Return the failed checks."""
    answers = result.answers
    counts = {
        "requests got no answer": sum(each.status == GONE for each in answers),
        "answers of 5xx gave no reason": sum(each.status >= 500 and not each.has_reason for each in answers),
        "refusals gave no reason": sum(400 <= each.status < 500 and not each.has_reason for each in answers),
        "good requests were refused": sum(
            each.is_good and each.status not in (GONE, 200, *FULL) and each.status < 500 for each in answers
        ),
        "broken requests were answered": sum(not each.is_good and each.status == 200 for each in answers),
        "restarts": result.restarts,
    }
    found = [f"{count} {what}" for what, count in counts.items() if count]
    if not any(each.is_good and each.status == 200 for each in answers):
        found.append("no good request was answered at all")
    first, last = first_and_last(result)
    if not last - first <= max_growth_mib:
        found.append(f"memory grew from {first:.1f} to {last:.1f} MiB; {max_growth_mib:g} MiB are allowed")
    return found


if __name__ == "__main__":
    main()
