"""`alert`: what is wrong, and who looks at it."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import DURATION, Noun, leaf

alert = Noun(
    "alert",
    help="What is wrong now, what was, who looks at it.",
    examples=(
        ("airboss alert list", "active ones"),
        ("airboss alert ack 3", "I look at it"),
    ),
)


@leaf(alert, "list", examples=(("airboss alert list --all --env production", "with those that resolved"),))
@click.option("--all", "all_", is_flag=True, help="Also those that resolved.")
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(all_: bool, env: str | None, filter_: str) -> ViewRequest:
    """Alerts, newest first."""
    return ViewRequest("alerts", filter=filter_, env=env, args={"all": all_})


@leaf(alert, "ack", acting=True, examples=(("airboss alert ack 3 --reason 'on it'", "everyone sees who"),))
@click.argument("alert_id", metavar="ALERT")
def ack(alert_id: str) -> Any:
    """Say that somebody looks at it."""
    return verb_request("alert.ack", ref_of("alert", alert_id))


@leaf(
    alert,
    "silence",
    acting=True,
    examples=(
        (
            "airboss alert silence 3 --for 1h --reason 'known, fix is rolling out' --yes --confirm-name chat",
            "no notification",
        ),
    ),
)
@click.argument("alert_id", metavar="ALERT")
@click.option("--for", "for_", type=DURATION, default="1h", show_default=True, metavar="T", help="How long.")
def silence(alert_id: str, for_: float) -> Any:
    """No notification of this alert for a while."""
    return verb_request("alert.silence", ref_of("alert", alert_id), minutes=max(1, round(for_ / 60)))


@leaf(alert, "unsilence", acting=True, examples=(("airboss alert unsilence 2", "its alerts may notify again"),))
@click.argument("silence_id", metavar="SILENCE")
def unsilence(silence_id: str) -> Any:
    """End a silence; `alert silences` has their numbers."""
    return verb_request("alert.unsilence", ref_of("silence", silence_id))


@leaf(alert, "silences", examples=(("airboss alert silences", "what keeps quiet, since whom, until when"),))
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def silences(filter_: str) -> ViewRequest:
    """Silences in force."""
    return ViewRequest("silences", filter=filter_)
