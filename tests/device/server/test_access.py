"""Tokens, TLS and client certificates, on a real server."""

import shutil
import socket
from pathlib import Path

import httpx2
import pytest
from certificates import Certificates, write_certificates
from device_server import HOST, INFER, answering, device, free_port
from malformed_requests import GOOD
from tls_clients import client_of, folder, speaking_tls

from targets.device.server.access import Access
from targets.device.settings import SettingError, Settings

__all__ = ["folder"]

TOKEN = "0123456789abcdef"
OPEN = ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/v2/models/tiny/ready")
CLOSED = ("/metrics", "/status.json")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    return write_certificates(tmp_path_factory.mktemp("certificates"))


def test_without_settings_everybody_may() -> None:
    access = Access(Settings())
    access.check(None, has_certificate=False)
    assert access.tls is None


def test_whoever_has_one_of_the_tokens_may(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"{TOKEN}\n\n  another-token-of-ours  \n")
    with answering(folder, token_file=file) as client:
        for path in OPEN:
            assert client.get(path).status_code == 200
        for header in (
            {},
            {"Authorization": "Basic abc"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": TOKEN},
        ):
            refused = [client.get(path, headers=header) for path in CLOSED]
            refused.append(client.post(INFER, content=GOOD, headers=header))
            for answer in refused:
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"].startswith("Bearer")
                assert list(answer.json()) == ["error"]
                assert TOKEN not in answer.text
        for token in (TOKEN, "another-token-of-ours"):
            header = {"Authorization": f"bearer {token}"}
            assert client.post(INFER, content=GOOD, headers=header).status_code == 200
            for path in CLOSED:
                assert client.get(path, headers=header).status_code == 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "contains no token"),
        (b"\n \n", "contains no token"),
        (b"short", "token 1 in TOKEN_FILE .* needs at least 16"),
        (f"{TOKEN}\nwith a space in it\n".encode(), "token 2 .* no space"),
        ("äöüäöüäöüäöüäöüäöü".encode(), "16 ASCII characters"),
        (b"\xff" * 20, "cannot be read"),
    ],
)
def test_a_token_file_that_does_not_serve_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(SettingError, match=message):
        Access(Settings(token_file=tmp_path / "tokens"))


def test_a_token_file_that_is_not_there_ends_the_start(tmp_path: Path) -> None:
    shown = device("serve", HOST=HOST, PORT=free_port(), TOKEN_FILE=tmp_path / "none", MODEL_FOLDER=tmp_path)
    assert shown.returncode == 2
    assert "TOKEN_FILE" in shown.stderr


def test_tls_serves_and_is_found_healthy(folder: Path, certificates: Certificates, tmp_path: Path) -> None:
    with speaking_tls(folder, tmp_path / "log", **certificates.server) as running:
        with client_of(running, certificates.client()) as client:
            for _ in range(3):
                assert client.post(INFER, content=GOOD).status_code == 200
            assert client.get("/metrics").status_code == 200
        asked = {"HOST": HOST, "PORT": running.port}
        assert device("healthcheck", **asked, TLS_CERTIFICATE=certificates.server["tls_certificate"]).returncode == 0
        assert device("healthcheck", **asked).returncode == 1
        # Who speaks no TLS is cut off, and nothing is made of it.
        with socket.create_connection((HOST, running.port), 30) as plain:
            plain.sendall(b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        with client_of(running, certificates.client()) as client:
            assert client.get("/v2").status_code == 200
        assert running.stop() == 0
        assert {entry["message"] for entry in running.logged() if entry["level"] != "info"} == {"TLS handshake failed"}


def test_a_client_certificate_is_asked_of_who_infers_alone(
    folder: Path, certificates: Certificates, tmp_path: Path
) -> None:
    settings = {**certificates.server, "tls_client_ca": certificates.authority}
    with speaking_tls(folder, tmp_path / "log", **settings) as running:
        with client_of(running, certificates.client()) as client:
            for path in OPEN:
                assert client.get(path).status_code == 200
            for answer in (client.post(INFER, content=GOOD), *(client.get(path) for path in CLOSED)):
                assert answer.status_code == 403
                assert "client certificate" in answer.json()["error"]
        with client_of(running, certificates.client("client")) as client:
            assert client.post(INFER, content=GOOD).status_code == 200
            assert all(client.get(path).status_code == 200 for path in CLOSED)
        with client_of(running, certificates.client("stranger")) as client, pytest.raises(httpx2.TransportError):
            client.post(INFER, content=GOOD)
        asked = {"HOST": HOST, "PORT": running.port, "TLS_CERTIFICATE": settings["tls_certificate"]}
        assert device("healthcheck", **asked).returncode == 0


def test_half_of_the_tls_settings_is_refused(certificates: Certificates) -> None:
    for name in ("tls_certificate", "tls_key"):
        with pytest.raises(SettingError, match="both TLS_CERTIFICATE and TLS_KEY"):
            Access(Settings(**{name: certificates.server[name]}))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="so does TLS_CLIENT_CA"):
        Access(Settings(tls_client_ca=certificates.authority))


def test_files_that_are_no_certificates_are_refused(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_text("no certificate")
    for name in ("tls_certificate", "tls_key", "tls_client_ca"):
        given = {**certificates.server, name: tmp_path / "other.pem"}
        with pytest.raises(SettingError, match="cannot set up TLS"):
            Access(Settings(**given))  # type: ignore[arg-type]
    given = {**certificates.server, "tls_key": certificates.folder / "client.key"}
    with pytest.raises(SettingError, match="cannot set up TLS"):
        Access(Settings(**given))  # type: ignore[arg-type]
