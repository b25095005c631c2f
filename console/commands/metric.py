"""`metric`: PromQL asked of the configured Prometheus."""

from __future__ import annotations

import click

from console.commands.requests import ViewRequest
from console.commands.tree import DURATION, leaf


@leaf(
    None,
    "metric",
    examples=(
        ("airboss metric 'sum by (track) (rate(airboss_requests_total[1m]))'", "PromQL, now"),
        ("airboss metric up --range 1h --step 30s", "over the last hour, a line a series"),
        ("airboss metric errors --service chat --range 30m", "the share of errors by track, by the service's profile"),
        (
            "airboss metric 'max(rate({$where}[$window]))' --service chat --env production -o json",
            "with the service's matchers",
        ),
    ),
)
@click.argument("query")
@click.option(
    "--service", default="", help="Whose: its profile's words, and $where, $service, $env and $window in QUERY."
)
@click.option("-e", "--env", default="", help="In this environment (needed where there are several).")
@click.option("--range", "range_s", type=DURATION, metavar="T", help="Over the last T instead of now.")
@click.option("--step", "step_s", type=DURATION, metavar="T", help="A point each T (default: 60 points).")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many series.")
def metric(query: str, service: str, env: str, range_s: float | None, step_s: float | None, limit: int) -> ViewRequest:
    """What Prometheus ([metrics] url) says to QUERY: PromQL, or with --service one of requests, errors, slow, tokens, queue, gpu."""
    asked = {"query": query, "service": service or None, "env": env or None, "range_s": range_s, "step_s": step_s}
    return ViewRequest("metric", args={**asked, "limit": limit})
