"""nanoGPT's `meta.pkl`: a pickle, read as data. Nothing it names is ever looked up, so nothing in it can run.

Numbers, texts, lists and dictionaries need no name; whatever does need one (a class, a function) is refused.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, NoReturn

from engine.serving.convert.source import SourceRefused

_LIMIT = 16 << 20
_HINT = "make it again with nanoGPT's own data/*/prepare.py; a vocabulary is a dict of characters and numbers"


class _PlainUnpickler(pickle.Unpickler):
    """Builds what pickle's own opcodes build, and nothing that has a name."""

    def find_class(self, module: str, name: str) -> NoReturn:
        """Refuse: to look a name up is to run code."""
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        """Refuse: there is nothing outside that it could mean."""
        raise pickle.UnpicklingError("it refers to something outside of the file")


def read_characters(path: Path) -> list[str]:
    """The characters of a `meta.pkl` in the order of their ids. Raises SourceRefused."""
    try:
        if path.stat().st_size > _LIMIT:
            raise SourceRefused(f"{path} has over {_LIMIT >> 20} MiB; a vocabulary of characters is small", hint=_HINT)
        value = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except OSError as error:
        raise SourceRefused(f"{path} cannot be read: {error.strerror}", hint=_HINT) from error
    except SourceRefused:
        raise
    except Exception as error:
        # A crafted or broken pickle fails in as many ways as there are opcodes.
        raise SourceRefused(f"{path} is no plain vocabulary and is not read: {error}", hint=_HINT) from error
    found = value.get("itos") if isinstance(value, dict) else None
    if isinstance(found, list):
        found = dict(enumerate(found))
    if not isinstance(found, dict) or not found or sorted(found, key=repr) != sorted(range(len(found)), key=repr):
        raise SourceRefused(f"{path} has no 'itos' that gives every id from 0 a character", hint=_HINT)
    characters = [found[index] for index in range(len(found))]
    odd = next((char for char in characters if not isinstance(char, str) or len(char) != 1), None)
    if odd is not None:
        raise SourceRefused(f"{path} has an entry that is no single character: {odd!r}", hint=_HINT)
    return characters
