"""`trigger`: what starts pipelines by itself."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

trigger = Noun(
    "trigger",
    help="What starts a pipeline by itself: a time, changed data, an alert. [pipeline.NAME.trigger.NAME] in airboss.toml.",
    examples=(
        ("airboss trigger list", "what each waits for, its next time, its last run"),
        ("airboss trigger pause charlm.nightly", "it starts nothing until `trigger resume`"),
    ),
)


@leaf(
    trigger, "list", examples=(("airboss trigger list -o json", "next time, last run, who paused it, what is wrong"),)
)
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(filter_: str) -> ViewRequest:
    """Triggers of this workspace, by PIPELINE.NAME."""
    return ViewRequest("triggers", filter=filter_)


@leaf(
    trigger,
    "pause",
    acting=True,
    examples=(("airboss trigger pause charlm.nightly", "what comes meanwhile is passed over"),),
)
@click.argument("name", metavar="TRIGGER")
def pause(name: str) -> Any:
    """Let a trigger start nothing; what comes meanwhile is passed over."""
    return verb_request("trigger.pause", ref_of("trigger", name))


@leaf(trigger, "resume", acting=True, examples=(("airboss trigger resume charlm.nightly", "from its next time on"),))
@click.argument("name", metavar="TRIGGER")
def resume(name: str) -> Any:
    """Let a paused trigger start runs again."""
    return verb_request("trigger.resume", ref_of("trigger", name))


@leaf(
    trigger,
    "approve",
    acting=True,
    examples=(("airboss trigger approve charlm.drift --yes", "the run that it proposes, with its evidence, starts"),),
)
@click.argument("name", metavar="TRIGGER")
def approve(name: str) -> Any:
    """Let a trigger with `approval = true` start the run that it proposes. `trigger list -o json` has the evidence."""
    return verb_request("trigger.approve", ref_of("trigger", name))
