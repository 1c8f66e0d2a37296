"""Certificates for a test, made by the openssl command: an authority, a server's, a client's."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    folder: Path

    @property
    def server(self) -> dict[str, Path]:
        """The server's settings."""
        return {"tls_certificate": self.folder / "server.pem", "tls_key": self.folder / "server.key"}

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """A client that trusts the authority, with the certificate of that name."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if name is not None:
            context.load_cert_chain(str(self.folder / f"{name}.pem"), str(self.folder / f"{name}.key"))
        return context


def write_certificates(folder: Path) -> Certificates:
    """`ca`, `server` and `client` that it has signed, and `stranger`, who has signed itself."""
    _openssl(folder, "req", "-x509", *_made("ca"), "-days", "2", "-subj", "/CN=authority")
    _openssl(folder, "req", "-x509", *_made("stranger"), "-days", "2", "-subj", "/CN=stranger")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        _openssl(folder, "req", *_made(name, "csr"), "-subj", f"/CN={name}")
        _openssl(
            folder,
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-days", "2", "-extfile", "extensions", "-out", f"{name}.pem"),
        )
    return Certificates(folder)


def _made(name: str, ending: str = "pem") -> list[str]:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key"]
    return [*key, "-out", f"{name}.{ending}"]


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
