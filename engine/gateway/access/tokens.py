"""JSON Web Tokens: from the token that was sent to who it speaks of. The checking is PyJWT's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate

from engine.gateway.access.identity import Identity
from engine.gateway.access.watched import Watched
from state.access_config import JwtConfig
from state.key_file import WORD
from state.secret import read_secret
from state.words import UsageError

MAX_TOKEN_BYTES = 8192


class TokenRefused(Exception):
    """The token is not believed; the text says why, and holds nothing of the token."""


class TokenChecker:
    """Checks tokens against one secret, one public key, or a set of public keys by their ids."""

    def __init__(self, config: JwtConfig, root: Path) -> None:
        """Reads the key. Raises UsageError when it cannot be used."""
        self._config = config
        self._algorithms = list(config.algorithms)
        self._keys: Watched[Mapping[str, Any]] | Mapping[str, Any]
        if config.secret:
            self._keys = {"": read_secret(config.secret, root)}
        elif config.public_key:
            self._keys = Watched(root / config.public_key, _public_key)
        else:
            self._keys = Watched(root / str(config.jwks), _key_set)

    def check(self, token: str) -> Identity:
        """Whom the token speaks of. Raises TokenRefused."""
        config = self._config
        if len(token) > MAX_TOKEN_BYTES:
            raise TokenRefused(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        try:
            claims = jwt.decode(
                token,
                self._key_for(token),
                algorithms=self._algorithms,
                issuer=config.issuer,
                audience=list(config.audience) or None,
                leeway=config.leeway,
                options={"require": list(config.required)},
            )
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenRefused(f"{type(error).__name__}: {str(error)[:200]}") from None
        return self._identity(claims)

    def _key_for(self, token: str) -> Any:
        keys = self._keys.value() if isinstance(self._keys, Watched) else self._keys
        if "" in keys:
            return keys[""]
        wanted = str(jwt.get_unverified_header(token).get("kid", ""))
        if wanted not in keys:
            raise TokenRefused("the token is signed with a key that the key set does not have")
        return keys[wanted]

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        config = self._config
        services = claims.get(config.services_claim) or ()
        if isinstance(services, str):
            services = services.split()
        if not isinstance(services, list | tuple) or not all(isinstance(name, str) for name in services):
            raise TokenRefused(f"its claim {config.services_claim!r} is no list of services")
        return Identity(
            name="jwt:" + (_word(claims, "sub") or "-"),
            tenant=_word(claims, config.tenant_claim),
            request_class=_word(claims, config.class_claim),
            services=frozenset(services),
        )


def _word(claims: Mapping[str, Any], name: str) -> str:
    """A claim that becomes a header and a ledger field, so it must be of plain characters."""
    value = claims.get(name, "")
    if not isinstance(value, str) or (value and not WORD.fullmatch(value)):
        raise TokenRefused(f"its claim {name!r} must be 1-64 of A-Z, a-z, 0-9 and _ . @ : -")
    return value


def _public_key(path: Path) -> Mapping[str, Any]:
    try:
        data = path.read_bytes()
        if b"BEGIN CERTIFICATE" in data:
            return {"": load_pem_x509_certificate(data).public_key()}
        return {"": load_pem_public_key(data)}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no public key: {error}", hint="it must be a PEM public key") from error


def _key_set(path: Path) -> Mapping[str, Any]:
    try:
        found = jwt.PyJWKSet.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, jwt.PyJWTError, AttributeError, TypeError) as error:
        raise UsageError(f"{path} is no JSON Web Key Set: {error}", hint='it must be {"keys": [...]}') from error
    keys = {str(key.key_id): key.key for key in found.keys if key.key_id and key.key_type != "oct"}
    if not keys:
        raise UsageError(f"{path} has no public key with a kid", hint="give every key a kid")
    return keys
