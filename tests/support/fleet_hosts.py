"""Devices for tests: each a network namespace with an ssh server, and a Docker engine of its own on a small disk.

The link to a host can be cut or slowed, the host killed and started again, its disk filled. All of it needs root.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import eventually

PROGRAMS = ("ip", "tc", "nsenter", "sshd", "ssh-keygen", "dockerd", "docker", "mount", "umount", "tar")
DISK_MB = 3000
SSHD = """
Port 22
ListenAddress {address}
HostKey {key}
PidFile none
AuthorizedKeysFile {authorized}
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
UsePAM no
MaxStartups 100
SetEnv DOCKER_HOST=unix://{socket}
"""
# A link that is cut is noticed within 3 s.
CLIENT = """
Host *
  UserKnownHostsFile {known}
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  IdentityFile {identity}
  IdentitiesOnly yes
  ConnectTimeout 2
  ServerAliveInterval 1
  ServerAliveCountMax 3
"""


@dataclass
class Host:
    """One machine; `disk` is its own file system, with Docker's images and our files."""

    name: str
    number: int
    root: Path
    space: str
    base_image: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"10.213.{self.number}.2"

    @property
    def disk(self) -> Path:
        return self.root / "disk"

    @property
    def work(self) -> Path:
        return self.disk / "work"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "docker.sock"

    @property
    def _outer(self) -> str:
        return f"{self.space}h"

    @property
    def _inner(self) -> str:
        return f"{self.space}d"

    def set_up(self, authorized: Path) -> None:
        """Namespace, link, disk and keys; nothing runs yet."""
        for folder in (self.disk, self.root / "run"):
            folder.mkdir(parents=True)
        _run("ip", "netns", "add", self.space)
        _run("ip", "link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self.space)
        _run("ip", "address", "add", f"10.213.{self.number}.1/30", "dev", self._outer)
        _run("ip", "link", "set", self._outer, "up")
        _run("ip", "-n", self.space, "address", "add", f"{self.address}/30", "dev", self._inner)
        _run("ip", "-n", self.space, "link", "set", self._inner, "up")
        _run("ip", "-n", self.space, "link", "set", "lo", "up")
        _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(self.disk))
        make_key(self.root / "hostkey")
        text = SSHD.format(address=self.address, key=self.root / "hostkey", authorized=authorized, socket=self.socket)
        (self.root / "sshd_config").write_text(text)

    def start(self) -> None:
        """Its ssh server and its Docker engine, as after a boot."""
        sshd = shutil.which("sshd")
        assert sshd is not None
        self._spawn(sshd, "-D", "-f", str(self.root / "sshd_config"), log="sshd.log")
        self.start_docker()
        if self.docker("images", "--quiet", self.base_image) == "":
            saved = subprocess.Popen(["docker", "save", self.base_image], stdout=subprocess.PIPE)
            assert saved.stdout is not None
            with saved:
                subprocess.run(self._docker("load"), stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
        assert eventually(self._listens, 10)

    def start_docker(self) -> None:
        run = self.root / "run"
        options = ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        places = ["--data-root", str(self.disk / "docker"), "--exec-root", str(run / "exec")]
        pid = ["--pidfile", str(run / "docker.pid")]
        self._spawn("dockerd", "--host", f"unix://{self.socket}", *places, *pid, *options, log="dockerd.log")
        assert eventually(lambda: self._docker_answers(), 30), (self.root / "dockerd.log").read_text()[-2000:]

    def docker(self, *words: str) -> str:
        """What its engine says."""
        return subprocess.run(self._docker(*words), check=True, capture_output=True, text=True).stdout.strip()

    def cut(self) -> None:
        _run("ip", "-n", self.space, "link", "set", self._inner, "down")

    def mend(self) -> None:
        _run("ip", "-n", self.space, "link", "set", self._inner, "up")

    @contextmanager
    def slowed(self, rate: str) -> Iterator[None]:
        """The way to it carries no more, such as 20mbit."""
        _run("tc", "qdisc", "add", "dev", self._outer, "root", "tbf", "rate", rate, "burst", "64k", "latency", "400ms")
        try:
            yield
        finally:
            _run("tc", "qdisc", "del", "dev", self._outer, "root")

    @contextmanager
    def frozen_docker(self) -> Iterator[None]:
        """Its engine takes requests and answers none."""
        number = int((self.root / "run" / "docker.pid").read_text())
        os.kill(number, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(number, signal.SIGCONT)

    def fill(self) -> None:
        """Leave some 100 kB of its disk free; `ballast` takes the rest."""
        ballast = self.disk / "ballast"
        free = shutil.disk_usage(self.disk).free - 100_000
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(free, 1))

    def kill(self) -> None:
        """Every process of it at once, containers too, as if the power had failed; its disk stays."""
        for number in _with_children(self._processes()):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        for process in self.processes:
            process.wait()
        self.processes.clear()
        assert eventually(lambda: not self._processes(), 10)
        _unmount_below(self.root / "run")
        _unmount_below(self.disk / "docker")
        for left in ("run/docker.pid", "run/docker.sock", "run/exec"):
            path = self.root / left
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def tear_down(self) -> None:
        """Nothing of it is left."""
        if self.processes:
            with suppress(subprocess.CalledProcessError, OSError):
                containers = self.docker("ps", "--all", "--quiet").split()
                if containers:
                    self.docker("rm", "--force", *containers)
        self.kill()
        _unmount_below(self.root)
        for words in (("ip", "link", "delete", self._outer), ("ip", "netns", "delete", self.space)):
            subprocess.run(words, check=False, capture_output=True)

    def _spawn(self, *command: str, log: str) -> None:
        with (self.root / log).open("ab") as output:
            words = ["nsenter", f"--net=/run/netns/{self.space}", *command]
            self.processes.append(
                subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)
            )

    def _processes(self) -> list[int]:
        found = subprocess.run(["ip", "netns", "pids", self.space], check=False, capture_output=True, text=True)
        return [int(number) for number in found.stdout.split()]

    def _docker(self, *words: str) -> list[str]:
        return ["docker", "--host", f"unix://{self.socket}", *words]

    def _docker_answers(self) -> bool:
        return subprocess.run(self._docker("version"), check=False, capture_output=True).returncode == 0

    def _listens(self) -> bool:
        try:
            socket.create_connection((self.address, 22), 1).close()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class Fleet:
    hosts: tuple[Host, ...]
    folder: Path

    @property
    def path(self) -> str:
        """PATH on which ssh is OpenSSH's with the keys and settings of these hosts."""
        return f"{self.folder / 'bin'}:{os.environ['PATH']}"

    def know(self, keys: dict[str, Path]) -> None:
        """Write known_hosts anew: the public key of each address."""
        lines = [f"{address} {' '.join(key.read_text().split()[:2])}\n" for address, key in keys.items()]
        (self.folder / "known_hosts").write_text("".join(lines))

    @property
    def own_keys(self) -> dict[str, Path]:
        return {host.address: host.root / "hostkey.pub" for host in self.hosts}


def why_impossible() -> str | None:
    """Why there can be no such hosts here."""
    if os.geteuid() != 0:
        return "needs root: network namespaces, mounts"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: openssh-server iproute2 docker.io)"
    probe = f"edprobe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], check=False, capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", probe], check=False, capture_output=True)
    return f"no network namespaces: {made.stderr.strip()}" if made.returncode else None


@contextmanager
def fleet(names: tuple[str, ...], folder: Path, base_image: str) -> Iterator[Fleet]:
    """Hosts that run, and a PATH that reaches them; skipped with the reason where there can be none."""
    reason = why_impossible()
    if reason is not None:
        pytest.skip(reason)
    Path("/run/sshd").mkdir(exist_ok=True)
    make_key(folder / "identity")
    with ExitStack() as stack:
        hosts = []
        for index, name in enumerate(names):
            number = (os.getpid() * 8 + index) % 250 + 1
            host = Host(name, number, folder / name, f"ed{os.getpid()}n{index}", base_image)
            stack.callback(host.tear_down)
            host.set_up(folder / "identity.pub")
            host.start()
            hosts.append(host)
        made = Fleet(tuple(hosts), folder)
        made.know(made.own_keys)
        config = folder / "ssh_config"
        config.write_text(CLIENT.format(known=folder / "known_hosts", identity=folder / "identity"))
        shim = folder / "bin" / "ssh"
        shim.parent.mkdir()
        shim.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        shim.chmod(0o755)
        yield made


def make_key(path: Path) -> None:
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path))


def _run(*words: str) -> None:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"


def _with_children(numbers: list[int]) -> set[int]:
    """Containers are in namespaces of their own, but below their engine."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, left = set(), list(numbers)
    while left:
        number = left.pop()
        if number not in found:
            found.add(number)
            left += children.get(number, [])
    return found


def _unmount_below(folder: Path) -> None:
    ours: list[str] = []
    for attempt in range(50):
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        ours = sorted((each for each in mounts if each.startswith(f"{folder}/")), key=len, reverse=True)
        for each in ours:
            subprocess.run(["umount", "--lazy", each], check=False, capture_output=True)
        if not ours:
            return
        time.sleep(0.1 if attempt else 0)
    raise AssertionError(f"still mounted: {ours}")
