"""What an importer is: something that knows its source's files and can write them as a bundle's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from state.words import OperationFailed

Say = Callable[[str], None]
"""Takes a line of progress for the person who waits."""


class SourceRefused(OperationFailed):
    """A model that cannot be imported: incomplete, of another kind, or of a format that could run code."""

    code = "source_refused"


class Importer(Protocol):
    """One model in one foreign format. Made cheaply; raises SourceRefused from `files` or `write`."""

    @property
    def kind(self) -> str:
        """The format's name, for the manifest."""
        ...

    @property
    def name(self) -> str:
        """What to call the model when nobody says."""
        ...

    def files(self) -> list[Path]:
        """Everything that the bundle is made of: the same bytes give the same bundle."""
        ...

    def write(self, into: Path, say: Say) -> None:
        """Write the bundle's files, all but its manifest, into the empty directory `into`."""
        ...


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises SourceRefused."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SourceRefused(
            f"{path} cannot be read: {error.strerror}", hint="name a complete model directory"
        ) from error
    except ValueError as error:
        raise SourceRefused(f"{path} is not JSON: {error}", hint="download it again; it may be incomplete") from error
    if not isinstance(value, dict):
        raise SourceRefused(f"{path} must hold a JSON object", hint="download it again; it may be incomplete")
    return value


def write_json(path: Path, value: object) -> None:
    """Write a JSON file as bundles have it."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
