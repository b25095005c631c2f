"""`airboss-keys.toml`: API keys by digest, with what each may do. The key itself is nowhere kept.

```toml
[[key]]
name = "ci"
sha256 = "9f86d0…"          # of the key's bytes
tenant = "acme"
class = "batch"
services = ["chat"]         # none: every service
expires = 2027-01-01T00:00:00Z
requests_per_minute = 60    # instead of [gateway.rate.key]'s; 0 sets no limit
```
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from state.words import Conflict, OperationFailed, UsageError

KEY_PREFIX = "ab-"
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:-]{0,63}")
"""What names of keys, tenants and classes are made of: they become headers, labels and ledger fields."""
_Limit = Annotated[int, Field(ge=0)] | None


class ApiKey(BaseModel):
    """One key. `sha256` is the digest of its bytes in hex; the key was shown once, to whoever made it."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    tenant: str = ""
    request_class: str = Field(default="", alias="class")
    services: tuple[str, ...] = ()
    expires: datetime | None = None
    created: datetime | None = None
    created_by: str = ""
    requests_per_minute: _Limit = None
    tokens_per_minute: _Limit = None
    burst: _Limit = None

    @field_validator("name", "tenant", "request_class", "created_by")
    @classmethod
    def _is_word(cls, value: str) -> str:
        if value and not WORD.fullmatch(value):
            raise ValueError("must be 1-64 of A-Z, a-z, 0-9 and _ . @ : -")
        return value

    @field_validator("expires", "created")
    @classmethod
    def _has_offset(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("must have an offset, such as 2027-01-01T00:00:00Z")
        return value

    def is_expired(self, now: float) -> bool:
        """Its time is over at `now` (Unix seconds)."""
        return self.expires is not None and now >= self.expires.timestamp()


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made: `secret` is to be shown once and kept nowhere."""

    secret: str
    key: ApiKey


def digest_of(secret: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_key(name: str, **fields: Any) -> NewKey:
    """A new random key of 256 bits. Raises UsageError when a field is wrong."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    try:
        return NewKey(secret, ApiKey.model_validate({"name": name, "sha256": digest_of(secret), **fields}))
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def parse_keys(text: str, where: Path) -> tuple[ApiKey, ...]:
    """The keys that a file's text states. Raises UsageError that names the file and the key."""
    try:
        body = tomllib.loads(text)
        unknown = sorted(set(body) - {"key"})
        if unknown:
            raise UsageError(f"{where}: no such field {unknown[0]!r}; keys stand under [[key]]")
        keys = tuple(ApiKey.model_validate(entry) for entry in body.get("key", ()))
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: not valid TOML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{where}: {_explain(error)}") from None
    names = [key.name for key in keys]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{where}: two keys are called {twice[0]!r}", hint="revoke one of them")
    return keys


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys in the file, none when there is no file. Raises UsageError."""
    try:
        return parse_keys(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}", hint="make it a readable UTF-8 text file") from error


def add_key(path: Path, key: ApiKey) -> None:
    """Put `key` into the file. Raises Conflict when the name is taken, OperationFailed when it cannot be written."""

    def added(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        if any(known.name == key.name for known in keys):
            raise Conflict(f"{path} has a key {key.name!r} already", hint=f"airboss gateway key revoke {key.name}")
        return (*keys, key)

    _change(path, added)


def revoke_key(path: Path, name: str) -> ApiKey:
    """Take the key called `name` out of the file, and return it. Raises UsageError when there is none."""
    revoked: list[ApiKey] = []

    def without(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
        revoked.extend(key for key in keys if key.name == name)
        if not revoked:
            known = ", ".join(key.name for key in keys) or "none"
            raise UsageError(f"{path} has no key {name!r}; there is {known}")
        return tuple(key for key in keys if key.name != name)

    _change(path, without)
    return revoked[0]


def keys_text(keys: tuple[ApiKey, ...]) -> str:
    """The file's text."""
    head = "# API keys of the gateway, by digest. `airboss gateway key add|list|revoke` edits this; so may a hand.\n"
    return head + "".join("\n[[key]]\n" + "".join(f"{line}\n" for line in _lines(key)) for key in keys)


def _lines(key: ApiKey) -> Iterator[str]:
    for name, value in key.model_dump(by_alias=True, exclude_defaults=True).items():
        if isinstance(value, datetime):
            yield f"{name} = {value.astimezone(UTC).isoformat().replace('+00:00', 'Z')}"
        elif isinstance(value, tuple):
            yield f"{name} = [{', '.join(_quoted(item) for item in value)}]"
        elif isinstance(value, int):
            yield f"{name} = {value}"
        else:
            yield f"{name} = {_quoted(value)}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _change(path: Path, change: Callable[[tuple[ApiKey, ...]], tuple[ApiKey, ...]]) -> None:
    """Read, change, write aside, rename: a reader never sees half a file, and two writers do not undo each other."""
    try:
        with _locked(path):
            keys = change(read_keys(path))
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                file.write(keys_text(keys))
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, path)
    except OSError as error:
        raise OperationFailed(f"{path} cannot be written: {error}", hint="nothing was changed") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    return f"key: {field}: {first['msg'].removeprefix('Value error, ')}"
