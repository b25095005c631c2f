"""`release`: the immutable bundles that roll out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from console.commands.refs import name_of, ref_of, verb_request
from console.commands.requests import LocalRequest, ViewRequest
from console.commands.tree import DURATION, Noun, leaf

release = Noun(
    "release",
    help="Immutable bundles: model, data, configuration, code and prompt, by digest.",
    examples=(
        ("airboss release list", "newest first, and where each is live"),
        ("airboss release diff charlm-2 charlm-3", "what changed between two"),
        ("airboss release compare charlm-2 charlm-3", "which is better, with intervals"),
    ),
)


@leaf(release, "list", examples=(("airboss release list --service chat -o name", "their names, a line each"),))
@click.option("--service", help="Of this service.")
@click.option("-e", "--env", help="Live in this environment.")
@click.option("--filter", "filter_", default="", metavar="TEXT", help="Lines that have TEXT.")
def list_(service: str | None, env: str | None, filter_: str) -> ViewRequest:
    """Releases, newest first."""
    return ViewRequest("releases", filter=filter_, env=env, args={"service": service})


@leaf(release, "show", examples=(("airboss release show charlm-3 -o yaml", "all of it"),))
@click.argument("release_id", metavar="RELEASE")
def show(release_id: str) -> ViewRequest:
    """One release."""
    return ViewRequest("release", ref=ref_of("release", release_id))


@leaf(
    release,
    "diff",
    examples=(
        ("airboss release diff charlm-2 charlm-3", "field by field"),
        ("airboss release diff charlm-2 charlm-3 --detailed-exitcode", "exits 10 when they differ"),
    ),
)
@click.argument("before")
@click.argument("after")
def diff(before: str, after: str) -> ViewRequest:
    """What changed from BEFORE to AFTER."""
    return ViewRequest("release-diff", ref=ref_of("release", after), args={"before": ref_of("release", before)})


@leaf(
    release,
    "compare",
    examples=(
        ("airboss release compare charlm-1 charlm-2", "quality, errors, latency and cost, each with its interval"),
        ("airboss release compare charlm-1 charlm-2 -e production --last 2h -o json", "of one environment, newest 2 h"),
    ),
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("-e", "--env", help="Live counts of this environment only.")
@click.option("--last", type=DURATION, default="24h", show_default=True, metavar="T", help="Live counts so far back.")
def compare(a: str, b: str, env: str | None, last: float) -> ViewRequest:
    """Compare A with B by what their evaluations left and what was counted of their traffic.

    Every metric has a 95 % bootstrap interval of B less A, drawn over blocks of time (blocks in which both served are drawn
    together) or over pieces of one held-out text. One with too few samples says how many are needed. A/B needs traffic on
    both: a canary step, or `airboss load`.
    """
    return ViewRequest(
        "release-compare", ref=ref_of("release", b), env=env, args={"with": ref_of("release", a), "last_s": last}
    )


@leaf(
    release,
    "verify",
    examples=(
        (
            "airboss release verify charlm-3",
            "every file's sha256, and the digest the store has; exits 1 if one differs",
        ),
    ),
)
@click.argument("release_id", metavar="RELEASE")
def verify(release_id: str) -> LocalRequest:
    """Hash every file of a release's bundle and compare."""
    return LocalRequest("console.commands.bundles:verify", {"release_id": name_of(ref_of("release", release_id))})


@leaf(
    release,
    "stage",
    acting=True,
    examples=(
        (
            "airboss release stage charlm-3 rejected --reason 'learned from leaked data' --yes",
            "nobody deploys it by mistake",
        ),
        ("airboss release stage charlm-3 development --reason 'the data was cleared' --yes", "it may go out again"),
    ),
)
@click.argument("release_id", metavar="RELEASE")
@click.argument("stage", type=click.Choice(("development", "staging", "archived", "rejected")))
def stage(release_id: str, stage: str) -> Any:
    """Say what RELEASE is good for, here and in the registry's tag. A registrar's verb: it moves no traffic.

    A rejected release is not deployed, save with --force. One that serves, or is being rolled out, keeps its stage.
    """
    return verb_request("release.stage", ref_of("release", release_id), stage=stage)


@leaf(
    release,
    "export",
    examples=(
        ("airboss release export charlm-3 --to /mnt/usb/charlm-3", "bundle, record and lineage, with SHA256SUMS"),
    ),
)
@click.argument("release_id", metavar="RELEASE")
@click.option(
    "--to", "to", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A directory to be made."
)
def export(release_id: str, to: Path) -> LocalRequest:
    """Copy a release to a directory that another workspace imports; every byte is verified on both sides."""
    args = {"release_id": name_of(ref_of("release", release_id)), "to": to}
    return LocalRequest("console.commands.release_export:export", args)


@leaf(
    release,
    "import",
    acting=True,
    examples=(
        ("airboss release import /mnt/usb/charlm-3 --yes", "under the name and service it had"),
        ("airboss release import /mnt/usb/charlm-3 --service chat --as eu-charlm-3 --yes", "under others"),
    ),
)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--service", help="The service that it is a release of (default: as it was there).")
@click.option("--as", "name", metavar="NAME", help="The release's name (default: as it was there).")
def import_(directory: Path, service: str | None, name: str | None) -> Any:
    """Take over a release that another workspace exported: copied, hashed, with where it came from."""
    return verb_request("release.import", "engine/engine", path=str(directory.absolute()), service=service, name=name)
