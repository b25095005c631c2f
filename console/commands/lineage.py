"""`lineage`: where something came from, or what came of it."""

from __future__ import annotations

import time
from typing import Any

import click

from console.commands.refs import any_ref, instant
from console.commands.requests import ViewRequest
from console.commands.tree import leaf
from state.words import UsageError


@leaf(
    None,
    "lineage",
    examples=(
        ("airboss lineage chat", "what the live release was made from, down to the text"),
        (
            "airboss lineage r1-0mx3zrtgw-b-254f6bea43-charlm-2",
            "an answer's request id: its release, run, data, code, prompt",
        ),
        ("airboss lineage dataset/3f2a91c07d55 --live", "recall: what answers users now because of this snapshot"),
        ("airboss lineage dataset/3f2a91c07d55 --forward", "everything that was made of it"),
        ("airboss lineage service/chat@production --at 2026-11-21T18:00Z", "what was in production at this moment"),
        ("airboss lineage service/chat --at 2h", "and two hours ago"),
    ),
)
@click.argument("ref")
@click.option("--forward", is_flag=True, help="What was made from it, instead of what it was made from.")
@click.option("--live", is_flag=True, help="Only what answers users now because of it, and by which way.")
@click.option("--at", metavar="T", help="What a service served at this time (RFC 3339), or so long ago (2h).")
def lineage(ref: str, forward: bool, live: bool, at: str | None) -> ViewRequest:
    """The way back from a service, release, run or request id to its data; or the way forward.

    What changed between two releases: `airboss release diff A B`.
    """
    if sum((forward, live, at is not None)) > 1:
        raise UsageError("--forward, --live and --at ask different things", hint="give one of them")
    args: dict[str, Any] = {"forward": forward}
    if live:
        args["live"] = True
    if at is not None:
        args["at"] = _moment(at)
    return ViewRequest("lineage", ref=any_ref(ref), args=args)


def _moment(text: str) -> int:
    """Unix seconds of an RFC 3339 time, or of so long ago. Raises UsageError."""
    from state.config_types import parse_duration

    try:
        return int(time.time() - parse_duration(text))
    except ValueError:
        return int(instant(text, "--at", hint="for example --at 2026-11-21T18:00Z, or --at 2h"))
