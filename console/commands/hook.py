"""`hook`: who else is told of what happens."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

hook = Noun(
    "hook",
    help="Webhooks and commands that are told of rollouts, freezes, broken glasses: [hook.NAME] in airboss.toml.",
    examples=(
        ("airboss hook list", "where each leads, and how its deliveries go"),
        ("airboss hook test chatops", "is it told? exits 1 with the reason if not"),
    ),
)


@leaf(hook, "list", examples=(("airboss hook list -o json", "waiting, failed, last told, last error"),))
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(filter_: str) -> ViewRequest:
    """Hooks, what each is told of, and how its deliveries go."""
    return ViewRequest("hooks", filter=filter_)


@leaf(hook, "test", acting=True, examples=(("airboss hook test chatops", "a signed test event, through the outbox"),))
@click.argument("name", metavar="HOOK")
def test(name: str) -> Any:
    """Send a hook a test event, and say whether it was taken."""
    return verb_request("hook.test", ref_of("hook", name))


@leaf(
    hook,
    "deliveries",
    examples=(("airboss hook deliveries --hook chatops", "newest first: tries, errors, when it is tried next"),),
)
@click.option("--hook", "name", metavar="HOOK", help="Of this hook.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def deliveries(name: str | None, limit: int, filter_: str) -> ViewRequest:
    """What hooks were told, and what still waits."""
    return ViewRequest("deliveries", filter=filter_, args={"hook": name, "limit": limit})


@leaf(hook, "redeliver", acting=True, examples=(("airboss hook redeliver 12", "under the id it had"),))
@click.argument("number", metavar="DELIVERY")
def redeliver(number: str) -> Any:
    """Try a delivery again now: one that failed, was dropped, or waits for its next try."""
    return verb_request("hook.redeliver", ref_of("delivery", number))
