"""API keys: from the key that was sent to who it belongs to."""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from engine.gateway.access.identity import Identity
from state.access_config import RateLimit
from state.key_file import ApiKey, digest_of, read_keys


class Keyring:
    """The keys of one version of the file, found by digest.

    The index is keyed by a random number of this process: how long a lookup takes tells a caller nothing about the
    digests that are in it. What is found is compared in constant time.
    """

    def __init__(self, keys: tuple[ApiKey, ...], default_rate: RateLimit) -> None:
        self._salt = os.urandom(32)
        self._by_mark = {self._mark(key.sha256): (key, _identity(key, default_rate)) for key in keys}

    @classmethod
    def load(cls, path: Path, default_rate: RateLimit) -> Keyring:
        """The keys in the file; none when there is no file. Raises UsageError."""
        return cls(read_keys(path), default_rate)

    def find(self, secret: str, now: float) -> Identity | str | None:
        """Whose key `secret` is; "expired" when its time is over; None when it is nobody's."""
        digest = digest_of(secret)
        key, identity = self._by_mark.get(self._mark(digest), (None, None))
        if key is None or identity is None or not hmac.compare_digest(key.sha256, digest):
            return None
        return "expired" if key.is_expired(now) else identity

    def __len__(self) -> int:
        return len(self._by_mark)

    def _mark(self, digest: str) -> bytes:
        return hashlib.blake2b(digest.encode(), key=self._salt, digest_size=16).digest()


def _identity(key: ApiKey, default: RateLimit) -> Identity:
    own = {
        name: value
        for name in ("requests_per_minute", "tokens_per_minute", "burst")
        if (value := getattr(key, name)) is not None
    }
    rate = default.model_copy(update=own) if own else None
    return Identity(f"key:{key.name}", key.tenant, key.request_class, frozenset(key.services), rate)
