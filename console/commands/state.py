"""`state`: check, back up and restore the store, and what differs from the world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import LocalRequest
from console.commands.tree import Noun, leaf

state = Noun(
    "state",
    help="The store: one SQLite file beside airboss.toml.",
    examples=(
        ("airboss state check", "the file, the audit chain, the reserve"),
        ("airboss state backup", "a checked copy, with the engine up or down"),
        ("airboss state backups", "the copies there are, and their age"),
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
    "backups",
    examples=(
        ("airboss state backups", "each backup with its age, newest first"),
        ("airboss state backups --verify", "reads all of them: file, audit chain, bundles; exits 1 if one is damaged"),
    ),
)
@click.option("--verify", is_flag=True, help="Read and check each of them whole.")
def backups(verify: bool) -> LocalRequest:
    """The backups there are. [state] backup in airboss.toml says how often, how many, and where."""
    return LocalRequest("console.commands.keeping:backups", {"verify": verify})


@leaf(
    state,
    "restore",
    acting=True,
    examples=(
        ("airboss state restore --yes --confirm-name WORKSPACE --reason 'disk failure'", "the newest good backup"),
        ("airboss state restore FILE", "that copy; asks for the workspace's name and a reason"),
        ("airboss state restore --dry-run", "which backup it would be"),
    ),
)
@click.argument("copy", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@click.option("--config", "with_config", is_flag=True, help="Put airboss.toml back too, as it was then.")
def restore(copy: Path | None, with_config: bool) -> LocalRequest:
    """Put a backup in the store's place, with the engine down. What stood there is kept.

    FILE is a path or a name of `state backups`. Known-good bundles that are gone or were altered are put back too. The
    engine then starts paused, touches nothing, and `airboss state diff` shows each difference.
    """
    return LocalRequest("console.commands.keeping:restore", {"copy": copy, "with_config": with_config})


@leaf(
    state,
    "diff",
    examples=(
        ("airboss state diff", "traffic, replicas, rollouts, bundles, aliases: record, world, what to do"),
        ("airboss state diff --detailed-exitcode", "exits 10 when something differs"),
    ),
)
def diff() -> LocalRequest:
    """Where the record and the world differ: after a restore, or at any time."""
    return LocalRequest("console.commands.differing:diff")


@leaf(
    state,
    "adopt",
    acting=True,
    examples=(("airboss state adopt chat --env production --confirm-name chat", "the record follows the gateway"),),
)
@click.argument("service")
@click.option("-e", "--env", help="Where (needed where the workspace has several).")
def adopt(service: str, env: str | None) -> Any:
    """Record the traffic of SERVICE as the gateway serves it."""
    return verb_request("state.adopt", ref_of("service", service), env=env)


@leaf(
    state,
    "enforce",
    acting=True,
    examples=(("airboss state enforce chat --env production --confirm-name chat", "the gateway follows the record"),),
)
@click.argument("service")
@click.option("-e", "--env", help="Where (needed where the workspace has several).")
def enforce(service: str, env: str | None) -> Any:
    """Serve SERVICE as it is recorded."""
    return verb_request("state.enforce", ref_of("service", service), env=env)
