"""`up`, `down`, `status`, and starting an engine for whoever needs one."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import verb_request
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import DURATION, leaf


@leaf(
    None,
    "up",
    examples=(
        ("airboss up -d", "as a daemon; returns once it answers"),
        ("airboss up", "in the foreground, for a service manager or to see its log"),
    ),
)
@click.option("-d", "--detach", is_flag=True, help="As a daemon; its log is .airboss/logs/engine.log.")
@click.option(
    "--start-timeout", type=DURATION, default="60s", show_default=True, metavar="T", help="With -d: give up after T."
)
def up(detach: bool, start_timeout: float) -> LocalRequest:
    """Start this workspace's engine. An engine that runs already is left alone."""
    return LocalRequest("console.commands.starting:up", {"detach": detach, "timeout_s": start_timeout})


@leaf(
    None,
    "down",
    acting=True,
    examples=(
        ("airboss down --yes", "the engine only; gateway and model servers go on serving"),
        ("airboss down --all --yes --confirm-name WORKSPACE --reason 'host goes away'", "everything"),
    ),
)
@click.option("--all", "all_", is_flag=True, help="Also drain and stop what serves.")
def down(all_: bool) -> Any:
    """Stop the engine, and say what still serves."""
    return LocalRequest(
        "console.commands.starting:down", {"request": verb_request("engine.drain" if all_ else "engine.down", "engine")}
    )


@leaf(
    None,
    "status",
    examples=(
        ("airboss status", "engine, gateway, services, alerts; exits 3 when no engine answers"),
        ("airboss status -o json", "for a program"),
    ),
)
def status() -> ViewRequest:
    """One screen of health. Without an engine: what the store and the processes say."""
    return ViewRequest("status")
