"""`pipeline`: what makes a release."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import Noun, leaf
from state.words import UsageError

pipeline = Noun(
    "pipeline",
    help="The stages that make a release from data.",
    examples=(("airboss pipeline run charlm --watch", "run it, follow it, exit by how it ended"),),
)


def assignments(pairs: Sequence[str]) -> dict[str, Any]:
    """`train.steps=600` → {"train.steps": 600}: a value is JSON where it can be, else text. Raises UsageError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, eq, value = pair.partition("=")
        if not eq or not key.strip():
            raise UsageError(f"--set {pair}: not KEY=VALUE", hint="for example --set train.steps=600")
        try:
            found[key.strip()] = json.loads(value)
        except ValueError:
            found[key.strip()] = value
    return found


@leaf(pipeline, "list", examples=(("airboss pipeline list", "those of airboss.toml"),))
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(filter_: str) -> ViewRequest:
    """Pipelines of this workspace."""
    return ViewRequest("pipelines", filter=filter_)


@leaf(pipeline, "show", examples=(("airboss pipeline show charlm", "its stages and parameters"),))
@click.argument("name")
def show(name: str) -> ViewRequest:
    """One pipeline: stages, parameters."""
    return ViewRequest("pipeline", ref=ref_of("pipeline", name))


@leaf(
    pipeline,
    "run",
    acting=True,
    examples=(
        ("airboss pipeline run charlm", "start it; stages whose inputs did not change come from the cache"),
        ("airboss pipeline run charlm --set train.steps=1200 --watch", "another parameter; follow it to its end"),
        ("airboss pipeline run charlm --from evaluate --force", "evaluate and what follows, cache or not"),
        ("airboss pipeline run charlm --dry-run", "what would run, and why"),
    ),
)
@click.argument("name")
@click.option("--from", "from_stage", metavar="STAGE", help="Begin at STAGE.")
@click.option("--force", is_flag=True, help="Run stages that the cache has.")
@click.option("--set", "pairs", multiple=True, metavar="K=V", help="A stage's parameter, for example train.steps=600.")
@click.option("--watch", is_flag=True, help="Follow it to its end; exits by how it ended (8: a gate said no).")
def run(name: str, from_stage: str | None, force: bool, pairs: tuple[str, ...], watch: bool) -> Any:
    """Run a pipeline; a good run ends in a release."""
    if watch:
        ctx = click.get_current_context()
        ctx.meta.setdefault("airboss.options", {}).setdefault("wait", "done")
    return verb_request(
        "pipeline.run",
        ref_of("pipeline", name),
        set=assignments(pairs) or None,
        from_stage=from_stage,
        force=force or None,
    )


@leaf(
    pipeline,
    "export",
    examples=(
        (
            "airboss pipeline export fraud --to github --out .github/workflows/fraud.yml",
            "a job a stage, in their order",
        ),
        ("airboss pipeline export fraud --to gitlab", "shown, to read"),
        ("airboss pipeline export fraud --to argo --image ghcr.io/me/fraud:1", "a Workflow, its stages in that image"),
    ),
)
@click.argument("name")
@click.option("--to", type=click.Choice(("argo", "github", "gitlab")), required=True, help="Whose file.")
@click.option("--image", default="python:3.11", show_default=True, help="The container image that the stages run in.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write it there.")
def export(name: str, to: str, image: str, out: Path | None) -> LocalRequest:
    """Write a pipeline as a workflow of GitHub Actions or GitLab CI, or an Argo Workflow: a job a stage, with its gates.

    Stages that are commands become jobs that need no Airboss. A pipeline with Python entries is one job, which runs it with Airboss.
    """
    ref_of("pipeline", name)
    given = {"name": name.removeprefix("pipeline/"), "to": to, "image": image, "out": out}
    return LocalRequest("console.commands.exporting:pipeline", given)
