"""A connection to a device by the user's own ssh, with its settings, keys and known hosts; one login for all work.

This machine can be a device too, if it has the GPU: its own shell runs the same scripts.

A lost connection is made again after increasing pauses; other errors are not retried.

`Stop` ends work in other threads: once it is set, none of our programs keeps running.
"""

import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, TypeVar

from pipeline.devices.failures import RETRIED, SSH_FAILED, connection_lost, why_failed, why_not_connected
from pipeline.devices.inventory import Device
from pipeline.errors import ConnectionLost, DeviceError, DeviceTimeout, HostUnreachable, ToolError
from pipeline.progress import Progress


class Stop:
    """Set by the thread that waits for the others; kills their programs, and no new one is started."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def set(self) -> None:
        """Kill every program now."""
        with self._lock:
            self._event.set()
            for process in self._running:
                kill(process)

    def wait(self, seconds: float) -> bool:
        """Sleep until it is set or `seconds` have passed; return whether it is set."""
        return self._event.wait(seconds)

    @contextmanager
    def watching(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Kill `process` at the end, or when it is set."""
        with self._lock:
            self._running.add(process)
            if self._event.is_set():
                kill(process)
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)
            if process.poll() is None:
                kill(process)
            process.wait()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process group: each process has its own session, so its children end too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


LOGIN_SECONDS = 60.0
MAX_OUTPUT = 8 << 20
"""In bytes of a script's stdout; the longest is a list of files."""
MAX_SAID = 64 << 20
"""In bytes of stderr that are read; the last lines of it are kept."""
LONGEST_LINE, KEPT_LINES = 8 << 10, 1000
POLL_SECONDS = 0.02
# Set unless the user's own configuration says otherwise: a broken link is detected after 15 s.
USUAL = {
    "connecttimeout": ("none", "ConnectTimeout=10"),
    "serveraliveinterval": ("0", "ServerAliveInterval=5"),
}
# Never wait for a person, forward a port or open a terminal, whatever the configuration says for manual logins.
ALWAYS = (
    "BatchMode=yes",
    "LogLevel=ERROR",
    "ClearAllForwardings=yes",
    "ForwardX11=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
)
# Start of every script: our folder with ~ resolved, and the device's Docker command.
PRELUDE = """set -eu
WORK=$1; DOCKER=$2; shift 2
case $WORK in "~/"*) WORK=$HOME/${WORK#"~/"};; esac
export LC_ALL=C
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Output of a script on the device."""

    stdout: str
    stderr: str


class Connection:
    """Connection to a device; use it as a context manager, in one thread.

    Entering raises `HostUnknown`, `HostKeyRefused`, `AccessDenied` or `HostUnreachable`.
    """

    def __init__(self, device: Device, *, deadline: float, progress: Progress, stop: Stop) -> None:
        self._device, self._deadline, self._progress, self._stop = device, deadline, progress, stop
        self._stack = ExitStack()
        self._master: subprocess.Popen[bytes] | None = None
        self._ssh: list[str] = []
        self._unfinished: list[_Pipes] = []

    def __enter__(self) -> Self:
        try:
            self._log_in()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        for pipes in self._unfinished:
            pipes.finish()

    def run(
        self,
        doing: str,
        script: str,
        *arguments: str,
        feed: Callable[[IO[bytes]], None] | None = None,
        into: Callable[[IO[bytes]], None] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> Answer:
        """Run a POSIX shell script on the device; `doing` completes "while …".

        `feed` writes its stdin, `into` reads its stdout, `on_line` gets each line of stderr. Raises
        `ConnectionLost`, `DeviceTimeout`, and for a failed script the error of `why_failed`.
        """
        device = self._device
        self._stop_if_lost(doing)
        words = ["sh", "-c", PRELUDE + script, "sh", device.folder, " ".join(device.docker), *arguments]
        if device.is_local:
            self._progress.detail(f"+ {doing}")
            command = words
        else:
            self._progress.detail(f"+ ssh {device.login}: {doing}")
            command = [*self._ssh, "--", shlex.join(words)]
        process = self._start(command, with_input=feed is not None)
        pipes = _Pipes(process, feed=feed, into=into, on_line=on_line)
        try:
            with self._stop.watching(process):
                status = self._wait(process, doing)
        except BaseException:
            # The shared ssh login keeps their streams open until it ends.
            self._unfinished.append(pipes)
            raise
        output, said = pipes.finish()
        if pipes.was_cut:
            pipes.raise_own()
            raise DeviceError(f"{device.name} ({device.address}): endless output while {doing}. Check the device.")
        if status == SSH_FAILED or status < 0 or self._stop.is_set:
            raise connection_lost(device, doing, said or self._words_of_master())
        if status != 0:
            raise why_failed(device, doing, status, said)
        pipes.raise_own()
        return Answer(stdout=output.decode(errors="replace"), stderr=said)

    def _log_in(self) -> None:
        """Start the ssh that all scripts share; raise its error if it fails. This machine needs none."""
        device = self._device
        if device.is_local:
            return
        # A socket's path is limited to about 100 characters, so it is directly in /tmp.
        folder = Path(tempfile.mkdtemp(prefix="deploy-ssh-", dir="/tmp"))
        self._stack.callback(shutil.rmtree, folder, ignore_errors=True)
        socket = folder / "s"
        base = ["ssh", *_options(device), "-S", str(socket)]
        master = self._start([*base, "-M", "-N", device.address], with_input=False)
        self._master = master
        pipes = _Pipes(master, feed=None, into=None, on_line=None)
        # In this order: its streams end when it does.
        self._stack.callback(pipes.abandon)
        self._stack.enter_context(self._stop.watching(master))
        limit = min(self._deadline, time.monotonic() + LOGIN_SECONDS)
        while not socket.exists():
            if master.poll() is not None:
                raise why_not_connected(device, pipes.finish()[1])
            if time.monotonic() > limit:
                raise HostUnreachable(
                    f"{device.name} ({device.address}): it responds, but the login is not done after "
                    f"{LOGIN_SECONDS:.0f} s. Try ssh {device.login} manually."
                )
            time.sleep(POLL_SECONDS)
        self._words = pipes
        self._ssh = [*base, "-o", "ControlMaster=no", device.address]

    def _start(self, command: Sequence[str], *, with_input: bool) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                # Ctrl-C is handled by us, not by ssh.
                start_new_session=True,
            )
        except OSError as error:
            raise ToolError(
                f"ssh could not be started: {error}. Install OpenSSH's client (sudo apt-get install openssh-client)."
            ) from None

    def _stop_if_lost(self, doing: str) -> None:
        if self._device.is_local:
            return
        assert self._master is not None, "not connected"
        if self._master.poll() is not None:
            raise connection_lost(self._device, doing, self._words_of_master())

    def _words_of_master(self) -> str:
        if self._master is None or self._master.poll() is None:
            return ""
        return self._words.finish()[1]

    def _wait(self, process: subprocess.Popen[bytes], doing: str) -> int:
        try:
            return process.wait(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise DeviceTimeout(
                f"{self._device.name} ({self._device.address}): the time limit of {self._device.timeout:g} s was "
                f"reached while {doing}. Finished work is kept: run the same command to continue; timeout = … in "
                "devices.toml raises the limit."
            ) from None


class _Pipes:
    """The streams of a program, each in its own thread, so that none blocks another."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        feed: Callable[[IO[bytes]], None] | None,
        into: Callable[[IO[bytes]], None] | None,
        on_line: Callable[[str], None] | None,
    ) -> None:
        self._process = process
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.was_cut = False
        """Whether the program was killed for writing more than any of ours does."""
        self._threads = ThreadPoolExecutor(max_workers=3)
        assert process.stdout is not None
        assert process.stderr is not None
        self._error: Future[None] = self._threads.submit(self._listen, process.stderr, on_line)
        self._output: Future[bytes] = self._threads.submit(self._drain, process.stdout, into)
        self._input: Future[None] | None = None
        if feed is not None:
            assert process.stdin is not None
            self._input = self._threads.submit(_feed, process.stdin, feed)

    def finish(self) -> tuple[bytes, str]:
        """Return all of stdout and stderr, once the program has ended."""
        self.abandon()
        failed = self._output.exception() is not None
        return (b"" if failed else self._output.result()), "\n".join(self._lines)

    def raise_own(self) -> None:
        """Raise an error of this side, from reading or writing."""
        for future in (self._input, self._output, self._error):
            if future is not None:
                future.result()

    def abandon(self) -> None:
        self._threads.shutdown(wait=True)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def _listen(self, stream: IO[bytes], on_line: Callable[[str], None] | None) -> None:
        left = MAX_SAID
        while raw := stream.readline(LONGEST_LINE):
            left -= len(raw)
            if left < 0:
                self._cut()
                return
            line = raw.decode(errors="replace").rstrip("\r\n")
            self._lines.append(line)
            if on_line is not None:
                on_line(line)

    def _drain(self, stream: IO[bytes], into: Callable[[IO[bytes]], None] | None) -> bytes:
        if into is None:
            return self._read_at_most(stream)
        try:
            into(stream)
        finally:
            # The other end must not wait for a reader that failed.
            self._read_at_most(stream)
        return b""

    def _read_at_most(self, stream: IO[bytes]) -> bytes:
        """Return the rest of the stream; kill the program if that is too much."""
        contents = stream.read(MAX_OUTPUT)
        if len(contents) == MAX_OUTPUT:
            self._cut()
        return contents

    def _cut(self) -> None:
        self.was_cut = True
        kill(self._process)


def _feed(stream: IO[bytes], feed: Callable[[IO[bytes]], None]) -> None:
    # A program that ends before it has read everything reports why by its status.
    with suppress(BrokenPipeError):
        feed(stream)
    with suppress(BrokenPipeError):
        stream.close()


def _options(device: Device) -> list[str]:
    """Return our options, and defaults for what the user's configuration does not set."""
    port = [] if device.port is None else ["-p", str(device.port)]
    command = ["ssh", *port, "-G", device.address]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOGIN_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{shlex.join(command)} failed: {error}. Is OpenSSH's client installed?") from None
    configured = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    usual = [option for key, (unset, option) in USUAL.items() if configured.get(key, unset) == unset]
    return [*port, *(word for option in (*ALWAYS, *usual) for word in ("-o", option))]


LONGEST_PAUSE = 30.0

T = TypeVar("T")


def pause_before(attempt: int) -> float:
    """Return the seconds before attempt 1, 2, …: 1, 2, 4, …, at most half a minute."""
    return min(2.0 ** (attempt - 1), LONGEST_PAUSE)


def retry(work: Callable[[], T], device: Device, *, deadline: float, progress: Progress, stop: Stop) -> T:
    """Return the result of `work`, which must resume; raise its first error if the device does not come back."""
    first_loss: ConnectionLost | None = None
    attempt = 0
    while True:
        try:
            return work()
        except RETRIED as error:
            if isinstance(error, ConnectionLost):
                first_loss = first_loss or error
            attempt += 1
            pause = pause_before(attempt)
            if attempt > device.retries or time.monotonic() + pause > deadline or stop.is_set:
                # Being unreachable now is only a consequence.
                raise first_loss or error from None
            progress.line(f"{error} Trying again in {pause:.0f} s ({attempt} of {device.retries}).")
        if stop.wait(pause):
            raise ConnectionLost(f"{device.name} ({device.address}): stopped.")
