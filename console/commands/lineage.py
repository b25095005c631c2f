"""`lineage`: where something came from, or what came of it."""

from __future__ import annotations

import click

from console.commands.refs import any_ref
from console.commands.requests import ViewRequest
from console.commands.tree import leaf


@leaf(
    None,
    "lineage",
    examples=(
        ("airboss lineage chat", "what the live release was made from, down to the text"),
        ("airboss lineage dataset/3f2a91c07d55 --forward", "everything that this snapshot is live in"),
    ),
)
@click.argument("ref")
@click.option("--forward", is_flag=True, help="What was made from it, instead of what it was made from.")
def lineage(ref: str, forward: bool) -> ViewRequest:
    """The way back from a service, release, run or request id to its data; or the way forward."""
    return ViewRequest("lineage", ref=any_ref(ref), args={"forward": forward})
