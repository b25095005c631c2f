"""`serve`'s words for a serving table: what `[service.X.serving]` says in `airboss.toml`."""

from __future__ import annotations

import json
from typing import Any

from state.words import UsageError


def serving_table(backend: str | None, settings: tuple[str, ...], argv: tuple[str, ...]) -> dict[str, Any]:
    """The table that the options make. Raises UsageError when they cannot be meant together."""
    table: dict[str, Any] = dict(_setting(text) for text in settings)
    if backend is not None:
        table["backend"] = backend
    if bool(argv) != (backend == "command" and "command" not in table):
        raise UsageError(
            "a command stands after `--` with --backend command, and only then",
            hint="airboss serve MODEL --backend command -- PROGRAM ... {port}",
        )
    if argv:
        table["command"] = list(argv)
    return table


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE: a JSON value if it is one, else the text itself."""
    key, is_there, value = text.partition("=")
    if not key or not is_there:
        raise UsageError(f"--serving {text}: not KEY=VALUE", hint="for example --serving dtype=bfloat16")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value
