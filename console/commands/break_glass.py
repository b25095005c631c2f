"""`break-glass`: who went past the rules, and who has looked at it since."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

break_glass = Noun(
    "break-glass",
    help="What was done past an approval, a freeze or the second person (`--break-glass`), until somebody else looked.",
    examples=(
        ("airboss break-glass list", "those nobody has acknowledged"),
        ("airboss break-glass ack 3 --yes --reason 'seen, incident 12'", "somebody else than who broke it"),
    ),
)


@leaf(break_glass, "list", examples=(("airboss break-glass list --all", "also those that were acknowledged"),))
@click.option("--all", "all_", is_flag=True, help="Also those that were acknowledged.")
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(all_: bool, env: str | None, filter_: str) -> ViewRequest:
    """Broken glasses, newest first."""
    return ViewRequest("glasses", filter=filter_, env=env, args={"all": all_})


@leaf(break_glass, "ack", acting=True, examples=(("airboss break-glass ack 3 --yes", "takes the flag down"),))
@click.argument("glass_id", metavar="GLASS")
def ack(glass_id: str) -> Any:
    """Acknowledge it: an approver other than who broke it, and not uid 0 or a shared account."""
    return verb_request("glass.ack", ref_of("glass", glass_id))
