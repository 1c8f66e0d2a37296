"""Who may infer and read metrics: bearer tokens from a file, client certificates, or everybody."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from pathlib import Path
from typing import FrozenSet, Optional

from targets.device.settings import SettingError, Settings
from targets.device.tensors import RequestError

LEAST_LETTERS = 16
SCHEME = "bearer "
FORWARD_SECRET = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Access:
    """What the settings ask of a client; raises `SettingError` for files that do not serve."""

    def __init__(self, settings: Settings) -> None:
        # Digests, so that every comparison takes as long, whatever a token's length.
        self._tokens: FrozenSet[bytes] = frozenset()
        if settings.token_file is not None:
            self._tokens = frozenset(map(_digest, _read_tokens(settings.token_file)))
        self._asks_certificate = settings.tls_client_ca is not None
        self.tls = _tls_context(settings)
        """None: plain HTTP."""

    def check(self, authorization: Optional[str], *, has_certificate: bool) -> None:
        """Raise `RequestError` (401 or 403) unless the client has shown all that is asked for."""
        if self._asks_certificate and not has_certificate:
            raise RequestError(
                "a client certificate is needed here, signed by an authority of TLS_CLIENT_CA", status=403
            )
        if not self._tokens:
            return
        if authorization is None or not authorization.lower().startswith(SCHEME):
            raise RequestError("a token is needed here: send the header 'Authorization: Bearer TOKEN'", status=401)
        given = _digest(authorization[len(SCHEME) :].strip())
        if not any([hmac.compare_digest(given, each) for each in self._tokens]):
            raise RequestError("the token is none of those of this server (TOKEN_FILE)", status=401)


def _read_tokens(path: Path) -> "list[str]":
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise SettingError(f"TOKEN_FILE {path} cannot be read: {error}") from None
    tokens = [line.strip() for line in lines if line.strip()]
    if not tokens:
        raise SettingError(f"TOKEN_FILE {path} holds no token; write one a line, or leave TOKEN_FILE unset")
    for number, token in enumerate(tokens, 1):
        if len(token) < LEAST_LETTERS or not token.isascii() or " " in token:
            raise SettingError(
                f"token {number} in TOKEN_FILE {path} must have at least {LEAST_LETTERS} ASCII letters and no space; "
                "make one with: openssl rand -hex 32"
            )
    return tokens


def _tls_context(settings: Settings) -> Optional[ssl.SSLContext]:
    if settings.tls_certificate is None or settings.tls_key is None:
        if (settings.tls_certificate, settings.tls_key, settings.tls_client_ca) != (None, None, None):
            raise SettingError("TLS needs both TLS_CERTIFICATE and TLS_KEY; TLS_CLIENT_CA needs them, too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Whoever gets hold of the key later must not read what was recorded; TLS 1.3 has no other suites.
    context.set_ciphers(FORWARD_SECRET)
    try:
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key), password=_no_password)
        if settings.tls_client_ca is not None:
            context.load_verify_locations(str(settings.tls_client_ca))
            # Health checks have none; what needs one asks for it.
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        raise SettingError(
            f"TLS cannot be set up with TLS_CERTIFICATE {settings.tls_certificate}, TLS_KEY {settings.tls_key}, "
            f"TLS_CLIENT_CA {settings.tls_client_ca}: {error}. All are PEM files, the key without a password."
        ) from None
    return context


def _no_password() -> str:
    # Else OpenSSL would ask for it on a terminal.
    raise ValueError("the key is encrypted")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
