"""`freeze` and `note`."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import any_ref, moment_of, ref_of, seconds_until, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf
from state.words import UsageError

freeze = Noun(
    "freeze",
    help="Forbid forward changes in an environment for a time. A rollback always passes.",
    examples=(("airboss freeze start --env production --until 2h --reason 'launch day' --yes", "two hours"),),
)


@leaf(
    freeze,
    "start",
    acting=True,
    examples=(
        (
            "airboss freeze start --env production --until 2026-12-24T12:00Z --reason holidays --yes",
            "until a time, with its offset",
        ),
    ),
)
@click.option("-e", "--env", required=True, help="Where.")
@click.option("--until", required=True, metavar="T", help="A duration or a time.")
def start(env: str, until: str) -> Any:
    """Begin a freeze. Give --reason: everyone who is refused reads it."""
    return verb_request(
        "freeze.start", ref_of("env", env), env=env, until_s=seconds_until(until), until=moment_of(until)
    )


@leaf(freeze, "end", acting=True, examples=(("airboss freeze end --env production --yes", "forward changes go again"),))
@click.option("-e", "--env", required=True, help="Where.")
def end(env: str) -> Any:
    """End a freeze."""
    return verb_request("freeze.end", ref_of("env", env), env=env)


@leaf(freeze, "list", examples=(("airboss freeze list", "where nothing moves forward now"),))
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(env: str | None, filter_: str) -> ViewRequest:
    """Environments that are frozen, and services that are held."""
    return ViewRequest("freezes", filter=filter_, env=env)


@leaf(
    None,
    "note",
    acting=True,
    examples=(
        (
            "airboss note rollout/ro-3 'latency is the new index, not the model'",
            "stands in its events and in the audit log",
        ),
    ),
)
@click.argument("ref")
@click.argument("text")
def note(ref: str, text: str) -> Any:
    """Leave a note on anything: a rollout, a release, a service, an alert."""
    if not text.strip():
        raise UsageError("an empty note", hint="airboss note rollout/ro-3 'what you found'")
    return verb_request("note", any_ref(ref), text=text)
