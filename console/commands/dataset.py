"""`dataset`: what models are made of, and users' feedback made into the next of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from console.commands.format import ago, short
from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import DURATION, Noun, leaf

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.commands.source import Source
    from console.output import Outcome

dataset = Noun(
    "dataset",
    help="Data sets: frozen snapshots by their sha256, and the next one of what users said.",
    examples=(
        ("airboss dataset list", "newest first"),
        (
            "airboss dataset build corrections --from-feedback",
            "corrections and praised answers, redacted, with consent",
        ),
        ("airboss lineage dataset/3f2a91c07d55 --forward", "what is made of it, and where it is live"),
    ),
)


@leaf(dataset, "list", examples=(("airboss dataset list -o name", "their names, a line each"),))
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(filter_: str) -> ViewRequest:
    """Data sets of this workspace, newest first."""
    return ViewRequest("datasets", filter=filter_)


@leaf(
    dataset,
    "build",
    acting=True,
    examples=(
        ("airboss dataset build corrections --from-feedback --service chat", "a folder in datasets/, and its lineage"),
        (
            "airboss dataset build corrections --from-feedback --since 30d --release charlm-2 --dry-run",
            "how many, and what is left out",
        ),
    ),
)
@click.argument("name", metavar="NAME")
@click.option(
    "--from-feedback", "from_feedback", is_flag=True, required=True, help="Of what users said at POST /feedback."
)
@click.option("--service", help="On the answers of this service (needed where there are several).")
@click.option(
    "--release", "releases", multiple=True, metavar="RELEASE", help="On the answers of this release; may be repeated."
)
@click.option("--since", type=DURATION, metavar="T", help="What was said in the last T.")
def build(name: str, from_feedback: bool, service: str | None, releases: tuple[str, ...], since: float | None) -> Any:
    """Make a data set of users' corrections, and of answers that they praised.

    Only text whose user consents is used, redacted before it was written and once more now. Each line knows its request and its
    release. Train on it with `airboss pipeline run PIPELINE --set collect.also=datasets/NAME-DIGEST`.
    """
    return verb_request(
        "dataset.build", ref_of("dataset", name), service=service, releases=list(releases) or None, since_s=since
    )


def datasets(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    """The list of data sets."""
    import time

    from console.commands.tables import listing

    now = time.time()
    return listing(
        "Dataset",
        source.get("/v1/datasets"),
        ("DATASET", "NAME", "SOURCE", "ROWS", "CHARS", "REDACTED", "SHA256", "AGE"),
        lambda i: (
            i["id"], i["name"], i["source"], str(i["rows"]), str(i["chars"]), str(sum((i.get("redactions") or {}).values())),
            short(i["sha256"]), ago(i["created_at"], now),
        ),
        lambda i: f"dataset/{i['id']}",
        filter=request.filter,
        right=(3, 4, 5, 7),
        empty="no data sets",
    )  # fmt: skip
