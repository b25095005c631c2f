"""Secrets by reference: `env:NAME` or `file:PATH`. A literal one in a configuration is refused where it is read."""

from __future__ import annotations

import os
from pathlib import Path

from state.words import UsageError

MAX_SECRET_BYTES = 64 << 10


def read_secret(reference: str, root: Path) -> str:
    """The secret that `reference` names; a relative path is taken from `root`. Raises UsageError, without the secret."""
    kind, _, place = reference.partition(":")
    if kind == "env" and place:
        value = os.environ.get(place, "")
        if not value:
            raise UsageError(f"the environment has no {place}", hint=f"export {place} before `airboss up`")
        return value
    if kind == "file" and place:
        path = root / place
        try:
            with path.open("rb") as file:
                value = file.read(MAX_SECRET_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the secret in {path} cannot be read: {error}", hint="make it a readable text file"
            ) from error
        if not value:
            raise UsageError(f"the secret file {path} is empty", hint="put the secret into it")
        return value
    raise UsageError("a secret is given as env:NAME or file:PATH", hint="see `airboss help config`")


def env_names(*references: str | None) -> tuple[str, ...]:
    """The environment's names that these references need: what a child must be passed."""
    return tuple(sorted({r.removeprefix("env:") for r in references if r and r.startswith("env:")}))
