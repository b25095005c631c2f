"""Authentication: from a request's headers to an identity, or to a refusal in OpenAI's shape."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from engine.gateway.access.identity import PROBER, Identity
from engine.gateway.access.keyring import Keyring
from engine.gateway.access.tokens import TokenChecker, TokenRefused
from engine.gateway.access.watched import Watched
from engine.gateway.answers import Refused, error_answer
from state.access_config import AccessConfig

API_KEY_HEADERS = ("X-Api-Key", "Api-Key")
CREDENTIAL_HEADERS = ("Authorization", *API_KEY_HEADERS)
"""Ours to read; never passed on to a replica when authentication is on."""
PROBE_KEY_FILE = "probe.key"
"""In the gateway's directory: what the engine's prober proves itself with. Of this user alone."""
REALM = 'Bearer realm="airboss"'


class Authenticator:
    """Says who sent a request. With mode `none` everybody is nobody in particular."""

    def __init__(self, config: AccessConfig, gateway_dir: Path, clock: Callable[[], float] = time.time) -> None:
        """Reads keys. Raises UsageError when they cannot be used."""
        auth, root = config.auth, Path(config.root)
        self.is_on = auth.mode != "none"
        self._clock = clock
        self._probe_key = _read_probe_key(gateway_dir / PROBE_KEY_FILE)
        rate = config.rate.key
        self._keyring = (
            Watched(root / auth.keys_file, lambda path: Keyring.load(path, rate)) if auth.takes_keys else None
        )
        self._tokens = TokenChecker(auth.jwt, root) if auth.takes_tokens else None

    def _is_probers(self, secret: str) -> bool:
        return bool(self._probe_key and secret.isascii()) and hmac.compare_digest(secret, self._probe_key)

    def identify(self, headers: Mapping[str, str]) -> Identity | None:
        """Who asks; None when nobody is asked. Raises Refused (401)."""
        secret = _credential(headers)
        if not self.is_on:
            return PROBER if self._is_probers(secret) else None
        if not secret:
            raise _unauthenticated("no credential was sent; send Authorization: Bearer KEY", "missing_api_key", "")
        if not secret.isascii():
            raise _unauthenticated("the credential holds characters that none has", "invalid_api_key", "invalid_token")
        if self._is_probers(secret):
            return PROBER
        if self._keyring is not None:
            found = self._keyring.value().find(secret, self._clock())
            if isinstance(found, Identity):
                return found
            if found == "expired":
                raise _unauthenticated("this API key has expired; ask for another", "expired_api_key", "invalid_token")
        if self._tokens is not None and secret.count(".") == 2:
            try:
                return self._tokens.check(secret)
            except TokenRefused as refused:
                raise _unauthenticated(f"this token is refused: {refused}", "invalid_token", "invalid_token") from None
        what = "API key" if self._keyring is not None else "token"
        raise _unauthenticated(
            f"this {what} is not known here; check it, or ask for one", "invalid_api_key", "invalid_token"
        )


def forbidden(identity: Identity, service: str) -> Refused:
    """The refusal of a known caller for a service that is not open to it."""
    allowed = ", ".join(sorted(identity.services))
    message = f"{identity.name} may not use {service!r}; it may use {allowed}"
    headers = {"WWW-Authenticate": f'{REALM}, error="insufficient_scope"'}
    return Refused(
        "forbidden",
        error_answer(403, "permission_error", "service_not_allowed", message, param="model", headers=headers),
    )


def _unauthenticated(message: str, code: str, error: str) -> Refused:
    challenge = f'{REALM}, error="{error}"' if error else REALM
    answer = error_answer(401, "authentication_error", code, message, headers={"WWW-Authenticate": challenge})
    return Refused("unauthenticated", answer)


def _credential(headers: Mapping[str, str]) -> str:
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return next((given.strip() for name in API_KEY_HEADERS if (given := headers.get(name))), "")


def _read_probe_key(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # a worker run by hand has no engine that probes it
