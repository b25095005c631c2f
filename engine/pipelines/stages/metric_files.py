"""Numbers out of the metric files that a command writes: JSON, YAML or TOML, nested names joined by dots."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from state.words import OperationFailed


def read_metrics(workspace: Path, paths: Sequence[str]) -> dict[str, float]:
    """Every number in the files, by dotted name; of several files, with the file's name before it where they collide.

    Raises OperationFailed for a file that is not there or cannot be read.
    """
    found: dict[str, float] = {}
    for path in paths:
        for name, value in _numbers(read_table(workspace / path)):
            found[name if name not in found else f"{path}:{name}"] = value
    return found


def read_table(path: Path) -> Any:
    """The content of a JSON, YAML or TOML file. Raises OperationFailed."""
    if path.suffix not in (".json", ".toml"):
        return _yaml(path)
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return json.loads(text)
        return tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise _trouble(path, error) from error


def _yaml(path: Path) -> Any:
    import yaml  # a stage without YAML starts without it

    from engine.pipelines import yaml12

    try:
        return yaml12.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _trouble(path, error) from error


def _trouble(path: Path, error: Exception) -> OperationFailed:
    if isinstance(error, FileNotFoundError):
        return OperationFailed(f"{path} is not there", hint="the stage names it among its metrics or params")
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OperationFailed(f"{path} cannot be read: {said}", hint="JSON, YAML or TOML by its ending")


def _numbers(value: Any, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield prefix or "value", float(value)
