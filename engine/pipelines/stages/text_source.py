"""Where text comes from: the interpreter's own help topics, a file, or a folder. Every refusal is a sentence.

A file is text when it decodes as UTF-8 (or UTF-16 with a byte order mark) and has no NUL. A `.jsonl` file gives one
document a line, from its "text" field; a line without one is a document with nothing in it, which `validate` counts.
"""

from __future__ import annotations

import codecs
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from state.words import UsageError

TOPICS = "pydoc_data.topics"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class TextRefused(UsageError):
    """The text named for a pipeline cannot be used."""

    code = "text_refused"


@dataclass(frozen=True, slots=True)
class Document:
    """One text with a name. `text` is None when there should be one and is none."""

    name: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """All documents of one source, in a stable order; `skipped` names files of a folder that are not text."""

    name: str
    documents: tuple[Document, ...]
    skipped: tuple[str, ...] = ()


def topics() -> Source:
    """The language reference that every interpreter carries: some 80 documents, 465 kB."""
    from pydoc_data.topics import topics as found

    return Source(TOPICS, tuple(Document(name, normalised(found[name])) for name in sorted(found)))


def read_source(path: Path, max_bytes: int) -> Source:
    """The documents of a file or of every visible file below a folder, at most `max_bytes` in all.

    Raises TextRefused: missing, unreadable, empty, too large, or (of a single file) binary or not UTF-8.
    """
    try:
        if path.is_dir():
            source = _folder(path, max_bytes)
        elif path.is_file():
            source = _file(path, max_bytes)
        elif path.exists():
            raise TextRefused(f"{path} is neither a file nor a folder", hint="name a text file, or a folder of them")
        else:
            raise TextRefused(f"{path} does not exist", hint="name a text file or a folder that this host has")
    except OSError as error:
        raise TextRefused(f"{path} cannot be read: {error.strerror}", hint="make it readable for this user") from error
    if not any(document.text and document.text.strip() for document in source.documents):
        raise TextRefused(f"{path} has no text in it", hint="name a file or a folder with text")
    return source


def _file(path: Path, max_bytes: int) -> Source:
    _check_size(path, path.stat().st_size, max_bytes)
    return Source(path.name, tuple(_documents(path, path.name)))


def _folder(root: Path, max_bytes: int) -> Source:
    documents: list[Document] = []
    skipped: list[str] = []
    total = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if any(part.startswith(".") for part in Path(name).parts) or path.is_symlink() or not path.is_file():
            continue
        total += path.stat().st_size
        _check_size(root, total, max_bytes)
        try:
            documents += _documents(path, name)
        except TextRefused:
            skipped.append(name)
    if not documents and skipped:
        raise TextRefused(
            f"none of the {len(skipped)} files below {root} is text", hint="name a folder of UTF-8 text files"
        )
    return Source(root.name, tuple(documents), tuple(skipped))


def _check_size(path: Path, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise TextRefused(
            f"{path} has more than {max_bytes // 1_000_000} MB of text",
            hint="name less of it, or raise collect.max_bytes",
        )


def _documents(path: Path, name: str) -> Iterator[Document]:
    text = normalised(decode(path.read_bytes(), path))
    if path.suffix != ".jsonl":
        yield Document(name, text)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Document(f"{name}:{number}", _text_field(line))


def _text_field(line: str) -> str | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    found = value.get("text") if isinstance(value, dict) else None
    if not isinstance(found, str) or any("\ud800" <= char <= "\udfff" for char in found):
        return None  # JSON can spell half a surrogate pair, which no encoding can write again
    return normalised(found)


def decode(content: bytes, path: Path) -> str:
    """The text of a file's bytes. Raises TextRefused naming the first byte that is none."""
    if content.startswith(_UTF_16):
        encoding = "utf-16"
    elif b"\0" in content:
        raise TextRefused(
            f"{path} is binary, not text: it has a NUL at byte {content.index(0)}", hint="name a UTF-8 text file"
        )
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise TextRefused(
            f"{path} is not {encoding.removesuffix('-sig').upper()} text: byte {error.start} cannot be decoded",
            hint="save it as UTF-8",
        ) from error


def normalised(text: str) -> str:
    """One newline and one form for each character (NFC), so that equal texts have equal digests."""
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
