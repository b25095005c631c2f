"""`slo`: objectives and how they stand."""

from __future__ import annotations

import click

from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf

slo = Noun("slo", help="Objectives, error budgets, burn rates.", examples=(("airboss slo list", "all of them"),))


@leaf(slo, "list", examples=(("airboss slo list --env production -o json", "with every burn window"),))
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(env: str | None, filter_: str) -> ViewRequest:
    """Objectives and how they stand."""
    return ViewRequest("slos", filter=filter_, env=env)
