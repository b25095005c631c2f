"""`audit`: every change and its author."""

from __future__ import annotations

from pathlib import Path

import click

from console.commands.refs import any_ref
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import Noun, leaf

audit = Noun(
    "audit",
    help="Every change and its author: append-only, hash-chained.",
    examples=(
        ("airboss audit list --ref rollout/ro-3", "what was done to it"),
        ("airboss audit verify", "the whole chain; exits 1 if a row does not follow"),
    ),
)


@leaf(audit, "list", examples=(("airboss audit list --limit 20", "the newest 20"),))
@click.option("--ref", metavar="REF", help="About this object.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Rows after this one.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("-e", "--env", help="In this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(ref: str | None, after: int | None, limit: int, env: str | None, filter_: str) -> ViewRequest:
    """Audit rows, newest last."""
    return ViewRequest(
        "audit", filter=filter_, env=env, ref=any_ref(ref) if ref else "", args={"after": after, "limit": limit}
    )


@leaf(audit, "verify", examples=(("airboss audit verify -o json", "rows, head, and what is wrong if anything is"),))
def verify() -> ViewRequest:
    """Walk the whole chain. Reads the store itself when there is no engine."""
    return ViewRequest("audit-verify")


@leaf(
    audit,
    "export",
    examples=(
        ("airboss audit export > audit.jsonl", "every row with its hashes, a JSON line each"),
        ("airboss audit export --to audit.jsonl --after 1200", "the rest, into a file that must not exist"),
    ),
)
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="A new file (default: stdout).")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="ID", help="Rows after this one.")
def export(to: Path | None, after: int) -> LocalRequest:
    """The rows as JSON lines, each with the hashes that chain it. Needs no engine."""
    return LocalRequest("console.commands.auditing:export", {"to": to, "after": after})
