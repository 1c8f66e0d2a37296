"""Access control for inference and metrics: bearer tokens from a file, client certificates, or open."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path
from typing import FrozenSet, Optional

from targets.device.server.tensors import RequestError
from targets.device.settings import SettingError, Settings

MIN_LETTERS = 16
SCHEME = "bearer "
FORWARD_SECRET = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Access:
    """The access rules of the settings; raises `SettingError` for unusable files."""

    def __init__(self, settings: Settings) -> None:
        # Digests, so that comparisons take the same time for every token length.
        self._tokens: FrozenSet[bytes] = frozenset()
        if settings.token_file is not None:
            self._tokens = frozenset(map(_digest, _read_tokens(settings.token_file)))
        self._asks_certificate = settings.tls_client_ca is not None
        self.tls = _tls_context(settings)
        """None: plain HTTP."""

    def check(self, authorization: Optional[str], *, has_certificate: bool) -> None:
        """Raise `RequestError` (401 or 403) unless the client has presented the required credentials."""
        if self._asks_certificate and not has_certificate:
            raise RequestError("a client certificate is required, signed by a CA in TLS_CLIENT_CA", status=403)
        if not self._tokens:
            return
        if authorization is None or not authorization.lower().startswith(SCHEME):
            raise RequestError("a token is required: send the header 'Authorization: Bearer TOKEN'", status=401)
        given = _digest(authorization[len(SCHEME) :].strip())
        if not any([hmac.compare_digest(given, each) for each in self._tokens]):
            raise RequestError("the token is not one of this server's (TOKEN_FILE)", status=401)


def _read_tokens(path: Path) -> "list[str]":
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SettingError(f"TOKEN_FILE {path} cannot be read: {error}") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise SettingError(f"TOKEN_FILE {path} contains no token; write one per line, or unset TOKEN_FILE")
    for number, token in enumerate(tokens, 1):
        if len(token) < MIN_LETTERS or not token.isascii() or " " in token:
            raise SettingError(
                f"token {number} in TOKEN_FILE {path} needs at least {MIN_LETTERS} ASCII characters and no spaces; "
                "create one with: openssl rand -hex 32"
            )
    return tokens


def _tls_context(settings: Settings) -> Optional[ssl.SSLContext]:
    if settings.tls_certificate is None or settings.tls_key is None:
        if (settings.tls_certificate, settings.tls_key, settings.tls_client_ca) != (None, None, None):
            raise SettingError("TLS needs both TLS_CERTIFICATE and TLS_KEY, and so does TLS_CLIENT_CA")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Forward secrecy: a key stolen later must not decrypt recorded traffic; all TLS 1.3 suites have it.
    context.set_ciphers(FORWARD_SECRET)
    try:
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key), password=_no_password)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(str(settings.tls_client_ca))
            # Health checks have no certificate; `check` requires one where needed.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        raise SettingError(
            f"cannot set up TLS with TLS_CERTIFICATE {settings.tls_certificate}, TLS_KEY {settings.tls_key}, "
            f"TLS_CLIENT_CA {settings.tls_client_ca}: {error}. All must be PEM files, the key without a password."
        ) from None
    return context


def _no_password() -> str:
    # Otherwise OpenSSL would prompt for it on a terminal.
    raise ValueError("the key is encrypted")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
