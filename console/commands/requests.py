"""What a line of the grammar asks for, as values: see something, change something, or do something on this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.api.schemas import VerbRequest

FORMATS = ("table", "json", "yaml", "name", "junit")


@dataclass(frozen=True, slots=True)
class Options:
    """The options that every line takes, whatever its noun and verb."""

    output: str = "table"
    workspace: Path | None = None
    engine: str = ""
    dry_run: bool = False
    yes: bool = False
    confirm_name: str = ""
    wait: str = ""
    """What to wait for: "" = do not, "done", or a condition of `airboss help wait`."""
    timeout_s: float | None = None
    reason: str = ""
    read_only: bool = False
    detailed_exitcode: bool = False
    expect_revision: int | None = None
    idempotency_key: str = ""
    settings: tuple[str, ...] = ()
    """`--set K=V` as written."""


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """Show `view`: the whole list, narrowed by `filter` and `env`, or the one object `ref`."""

    view: str
    filter: str = ""
    env: str | None = None
    ref: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """Something that the console does itself, on this host: `target` is `module:function`, taken on first use."""

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parsed:
    """A line, understood: its request, its options, and the words it was made of."""

    request: VerbRequest | ViewRequest | LocalRequest
    options: Options
    words: tuple[str, ...]
