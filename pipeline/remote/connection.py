"""A connection to a device: the user's own ssh, its settings, keys and known hosts; one login for all that is done.

This machine is a device, too, where it has the GPU: the same scripts are run by its own shell.
"""

import shlex
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from pipeline.errors import DeviceError, DeviceTimeout, HostUnreachable, ToolError
from pipeline.progress import Progress
from pipeline.remote.device import Device
from pipeline.remote.failure import SSH_FAILED, lost, why_failed, why_not_connected
from pipeline.remote.stop import Stop, kill

LOGIN_SECONDS = 60.0
MOST_OUTPUT = 8 << 20
"""Bytes that a script's stdout is kept of; the longest is a list of files."""
MOST_SAID = 64 << 20
"""Bytes of stderr that are listened to, of which the last lines are kept."""
LONGEST_LINE, KEPT_LINES = 8 << 10, 1000
POLL_SECONDS = 0.02
# Set unless the user's own configuration says otherwise: a link that is cut is noticed after 15 s.
USUAL = {
    "connecttimeout": ("none", "ConnectTimeout=10"),
    "serveraliveinterval": ("0", "ServerAliveInterval=5"),
}
# Nothing may wait for a person, forward a port or open a terminal, whatever the configuration says for logins by hand.
ALWAYS = (
    "BatchMode=yes",
    "LogLevel=ERROR",
    "ClearAllForwardings=yes",
    "ForwardX11=no",
    "RequestTTY=no",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
)
# Every script begins with it: our folder there with ~ resolved, and the command that is Docker.
PRELUDE = """set -eu
WORK=$1; DOCKER=$2; shift 2
case $WORK in "~/"*) WORK=$HOME/${WORK#"~/"};; esac
export LC_ALL=C
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a script on the device wrote."""

    stdout: str
    stderr: str


class Connection:
    """Used as a context manager; not shared between threads.

    Raises `HostUnknown`, `HostKeyRefused`, `AccessDenied` or `HostUnreachable` when it is entered.
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
        """Run a POSIX shell script there; `doing` completes "while …".

        `feed` writes its stdin, `into` reads its stdout, `on_line` hears each line of stderr. Raises
        `ConnectionLost`, `DeviceTimeout`, and where the script fails what `why_failed` makes of it.
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
            # The login that all scripts share holds their streams open until it ends.
            self._unfinished.append(pipes)
            raise
        output, said = pipes.finish()
        if pipes.was_cut:
            pipes.raise_own()
            raise DeviceError(f"{device.name} ({device.address}): it does not stop writing while {doing}. Look at it.")
        if status == SSH_FAILED or status < 0 or self._stop.is_set:
            raise lost(device, doing, said or self._words_of_master())
        if status != 0:
            raise why_failed(device, doing, status, said)
        pipes.raise_own()
        return Answer(stdout=output.decode(errors="replace"), stderr=said)

    def _log_in(self) -> None:
        """Start the ssh that all scripts share; it says why where it cannot. This machine needs none."""
        device = self._device
        if device.is_local:
            return
        # A socket's name may have some 100 characters, so it lies directly in /tmp.
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
                    f"{device.name} ({device.address}): it answers, but the login is not done after "
                    f"{LOGIN_SECONDS:.0f} s. Try ssh {device.login} by hand."
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
                # A Ctrl-C is ours to answer, not ssh's.
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
            raise lost(self._device, doing, self._words_of_master())

    def _words_of_master(self) -> str:
        if self._master is None or self._master.poll() is None:
            return ""
        return self._words.finish()[1]

    def _wait(self, process: subprocess.Popen[bytes], doing: str) -> int:
        try:
            return process.wait(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise DeviceTimeout(
                f"{self._device.name} ({self._device.address}): the {self._device.timeout:g} s it is given were over "
                f"while {doing}. What is done there is kept: the same command goes on from there; timeout = … in "
                "devices.toml gives it more."
            ) from None


class _Pipes:
    """The streams of a program, each in a thread, so that none waits for another."""

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
        """Whether the program was ended, as it wrote more than any of ours does."""
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
        """All of stdout and stderr, once the program has ended."""
        self.abandon()
        failed = self._output.exception() is not None
        return (b"" if failed else self._output.result()), "\n".join(self._lines)

    def raise_own(self) -> None:
        """Raise what went wrong on this side, in reading or writing."""
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
        left = MOST_SAID
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
            return self._bounded(stream)
        try:
            into(stream)
        finally:
            # The other end must not wait for a reader that gave up.
            self._bounded(stream)
        return b""

    def _bounded(self, stream: IO[bytes]) -> bytes:
        """All that is left in it; the program is ended where that is too much."""
        contents = stream.read(MOST_OUTPUT)
        if len(contents) == MOST_OUTPUT:
            self._cut()
        return contents

    def _cut(self) -> None:
        self.was_cut = True
        kill(self._process)


def _feed(stream: IO[bytes], feed: Callable[[IO[bytes]], None]) -> None:
    # A program that ends before it has read all says why by its status.
    with suppress(BrokenPipeError):
        feed(stream)
    with suppress(BrokenPipeError):
        stream.close()


def _options(device: Device) -> list[str]:
    """Ours, and what is usual where the user's configuration leaves it open."""
    port = [] if device.port is None else ["-p", str(device.port)]
    command = ["ssh", *port, "-G", device.address]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LOGIN_SECONDS).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"{shlex.join(command)} failed: {error}. Is OpenSSH's client installed?") from None
    configured = dict(line.split(" ", 1) for line in shown.splitlines() if " " in line)
    usual = [option for key, (unset, option) in USUAL.items() if configured.get(key, unset) == unset]
    return [*port, *(word for option in (*ALWAYS, *usual) for word in ("-o", option))]
