"""`run`: one execution of a pipeline."""

from __future__ import annotations

from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

run = Noun(
    "run",
    help="Executions of pipelines: their stages, gates and logs.",
    examples=(
        ("airboss run list", "newest first"),
        ("airboss run logs run-4 train --follow", "a stage's log as it is written"),
    ),
)


@leaf(run, "list", examples=(("airboss run list --filter failed", "those that failed"),))
@click.option("--pipeline", help="Of this pipeline.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(pipeline: str | None, filter_: str) -> ViewRequest:
    """Runs, newest first."""
    return ViewRequest("runs", filter=filter_, args={"pipeline": pipeline})


@leaf(run, "show", examples=(("airboss run show run-4 --watch", "each change, until it ends"),))
@click.argument("run_id", metavar="RUN")
@click.option("--watch", is_flag=True, help="Go on until it ends: a line for each change.")
def show(run_id: str, watch: bool) -> ViewRequest:
    """One run: stages, metrics, gates."""
    return ViewRequest("run", ref=ref_of("run", run_id), args={"watch": watch})


@leaf(
    run,
    "logs",
    examples=(
        ("airboss run logs run-4", "every stage, one after the other"),
        ("airboss run logs run-4 train --follow", "until the stage ends"),
    ),
)
@click.argument("run_id", metavar="RUN")
@click.argument("stage", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the stage (or the run) ends.")
@click.option("--tail", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
def logs(run_id: str, stage: str | None, follow: bool, tail: int | None) -> ViewRequest:
    """What a run's stages printed."""
    return ViewRequest("log", ref=ref_of("run", run_id), args={"stage": stage, "watch": follow, "tail": tail})


@leaf(run, "cancel", acting=True, examples=(("airboss run cancel run-4 --yes", "its stage is stopped"),))
@click.argument("run_id", metavar="RUN")
def cancel(run_id: str) -> Any:
    """Stop a run."""
    return verb_request("run.cancel", ref_of("run", run_id))


@leaf(run, "retry", acting=True, examples=(("airboss run retry run-4 --wait", "what failed, and what follows it"),))
@click.argument("run_id", metavar="RUN")
def retry(run_id: str) -> Any:
    """Run again what failed."""
    return verb_request("run.retry", ref_of("run", run_id))
