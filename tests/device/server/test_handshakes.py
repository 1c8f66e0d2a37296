"""Clients that connect to a server of TLS and shake no hands, or not as they should."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificates import Certificates, write_certificates
from device_server import INFER, Running
from faults import allow_files, eventually, open_files, resident_mib
from malformed_requests import GOOD
from tiny_package import write_tiny_package
from tls_clients import client_of, speaking_tls


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_package(tmp_path_factory.mktemp("handshakes") / "artifact").folder


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def failures(running: Running) -> list[str]:
    return [entry["error"] for entry in running.logged() if entry["message"] == "TLS handshake failed"]


@pytest.mark.slow
def test_connections_that_say_nothing_are_counted_and_make_room(
    folder: Path, certificates: Certificates, tmp_path: Path, clients: ExitStack
) -> None:
    allow_files(1000)
    settings = {**certificates.server, "max_connections": 50}
    with speaking_tls(folder, tmp_path / "log", **settings) as running:  # type: ignore[arg-type]
        files = open_files(running)
        for number in range(8):
            for _ in range(100):
                clients.enter_context(running.connect())
            if number in (0, 7):
                time.sleep(1.2)
                with client_of(running, certificates.client()) as client:
                    assert client.post(INFER, content=GOOD).status_code == 200
        assert open_files(running) <= files + 60
        assert "timeout after 1 s" in failures(running)
        # Ten a second at most.
        assert len(failures(running)) < 200


@pytest.mark.slow
def test_connections_that_say_nothing_are_cut_off_in_time(
    folder: Path, certificates: Certificates, tmp_path: Path, clients: ExitStack
) -> None:
    allow_files(1000)
    with speaking_tls(folder, tmp_path / "log", **certificates.server) as running:
        with client_of(running, certificates.client()) as client:
            assert client.post(INFER, content=GOOD).status_code == 200
            files, before = open_files(running), resident_mib(running)
            for _ in range(400):
                clients.enter_context(running.connect())
            assert eventually(lambda: open_files(running) >= files + 400)
            assert resident_mib(running) < before + 400 * 100 / 1024
            assert client.post(INFER, content=GOOD).status_code == 200
        assert eventually(lambda: open_files(running) < files + 10, 20)
        assert "timeout after 10 s" in failures(running)
        assert running.stop() == 0


def test_what_is_no_handshake_leaves_a_line(folder: Path, certificates: Certificates, tmp_path: Path) -> None:
    with speaking_tls(folder, tmp_path / "log", **certificates.server) as running:
        for sent in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
            with running.connect() as plain:
                plain.sendall(sent)
                plain.shutdown(socket.SHUT_WR)
                assert not plain.recv(100).startswith(b"HTTP")
        assert eventually(lambda: len(failures(running)) >= 3)
        assert not [entry for entry in running.logged() if "traceback" in entry]
        assert running.stop() == 0


@pytest.mark.parametrize("suite", ["AES128-GCM-SHA256", "AES256-SHA256", "ECDHE-ECDSA-AES128-SHA"])
def test_only_suites_with_forward_secrecy_are_taken(
    folder: Path, certificates: Certificates, tmp_path: Path, suite: str
) -> None:
    with speaking_tls(folder, tmp_path / "log", **certificates.server) as running:
        for good, wanted in ((True, "ECDHE-ECDSA-AES128-GCM-SHA256"), (False, suite)):
            context = certificates.client()
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(f"{wanted}:@SECLEVEL=0")
            with running.connect() as plain:
                if good:
                    with context.wrap_socket(plain, server_hostname="localhost") as secure:
                        assert secure.cipher()[0] == wanted  # type: ignore[index]
                else:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(plain, server_hostname="localhost")
        assert eventually(lambda: any("cipher" in error.lower() for error in failures(running)))


def test_a_request_in_the_same_packet_as_the_end_of_the_handshake_is_answered(
    folder: Path, certificates: Certificates, tmp_path: Path
) -> None:
    with speaking_tls(folder, tmp_path / "log", **certificates.server) as running:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        spoken = certificates.client().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with running.connect() as plain:
            while True:
                try:
                    spoken.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    incoming.write(plain.recv(65536))
            spoken.write(b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            plain.sendall(outgoing.read())
            answer = b""
            while not answer.startswith(b"HTTP/1.1 200"):
                incoming.write(plain.recv(65536))
                try:
                    answer = spoken.read()
                except ssl.SSLWantReadError:
                    continue
