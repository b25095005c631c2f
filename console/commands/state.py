"""`state`: check, back up and restore the store."""

from __future__ import annotations

from pathlib import Path

import click

from console.commands.requests import LocalRequest
from console.commands.tree import Noun, leaf

state = Noun(
    "state",
    help="The store: one SQLite file beside airboss.toml.",
    examples=(
        ("airboss state check", "the file, the audit chain, the reserve"),
        ("airboss state backup", "a checked copy, with the engine up or down"),
    ),
)


@leaf(state, "check", examples=(("airboss state check", "exits 1 if the file or the chain is damaged"),))
def check() -> LocalRequest:
    """Is the store sound?"""
    return LocalRequest("console.commands.keeping:check")


@leaf(state, "backup", examples=(("airboss state backup --to /backup/airboss.db", "another copy, elsewhere"),))
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Also copy it to a new FILE.")
def backup(to: Path | None) -> LocalRequest:
    """Copy the store while it is used; the copy is checked."""
    return LocalRequest("console.commands.keeping:backup", {"to": to})


@leaf(
    state,
    "restore",
    acting=True,
    examples=(
        ("airboss state restore --yes --confirm-name WORKSPACE --reason 'disk failure'", "the newest good backup"),
        ("airboss state restore FILE", "that copy; asks for the workspace's name and a reason"),
    ),
)
@click.argument("copy", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
def restore(copy: Path | None) -> LocalRequest:
    """Put a backup in the store's place, with the engine down. What stood there is kept.

    The engine then starts paused, reads the world and shows each difference.
    """
    return LocalRequest("console.commands.keeping:restore", {"copy": copy})
