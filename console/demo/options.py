"""How the demo is played, as the command line understood it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo is played. `as_json`: one JSON document on stdout at the end."""

    directory: Path
    headless: bool
    text: Path | None
    fault: bool
    cut_evidence: bool
    keep: bool
    as_json: bool
    servers: Path | None = None
    """A file of tables for its airboss.toml: servers in the place of what is embedded."""
