"""`registry`: the model registry, read and never written: its models, its versions, all of one."""

from __future__ import annotations

import re
from typing import Any

import click

from console.commands.refs import ref_of, verb_request
from console.commands.requests import ViewRequest
from console.commands.tree import Noun, leaf
from state.words import UsageError

_VERSION = re.compile(r"(?P<model>[^/:@]+)(?:/(?P<number>\d+)|@(?P<alias>[A-Za-z0-9_-]+))?")

registry = Noun(
    "registry",
    help="The model registry ([registry] in airboss.toml), looked at and taken from: nothing here writes to it.",
    examples=(
        ("airboss registry list", "models by name, newest version and aliases"),
        ("airboss registry search fraud", "asked of the server; a filter in MLflow's words is taken too"),
        ("airboss registry show support-bot@champion", "one version: run, data, files"),
    ),
)


def _paging(function: click.decorators.FC) -> click.decorators.FC:
    function = click.option("--page", default="", metavar="TOKEN", help="The page after; the one before names it.")(
        function
    )
    return click.option(
        "--limit", type=click.IntRange(1, 1000), default=500, show_default=True, help="At most so many."
    )(function)


def version_of(text: str) -> tuple[str, str]:
    """Model and version of `MODEL`, `MODEL/7`, `MODEL@alias`: the version "" or "7" or "@alias". Raises UsageError."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is no model of a registry", hint="MODEL, MODEL/7 or MODEL@champion")
    return found["model"], found["number"] or (f"@{found['alias']}" if found["alias"] else "")


@leaf(
    registry,
    "list",
    examples=(
        ("airboss registry list", "500 models a page"),
        ("airboss registry list --limit 20 -o json", "the next page's token is said on stderr"),
    ),
)
@_paging
def list_(limit: int, page: str) -> ViewRequest:
    """The registry's models, by name."""
    return ViewRequest("registry-models", args={"limit": limit, "page": page})


@leaf(
    registry,
    "search",
    examples=(
        ("airboss registry search fraud", "models with it in their names"),
        ("airboss registry search \"tags.team = 'search'\" --versions", "versions by a tag; MLflow's filter language"),
    ),
)
@click.argument("text", metavar="TEXT")
@click.option("--versions", is_flag=True, help="Versions instead of models.")
@_paging
def search(text: str, versions: bool, limit: int, page: str) -> ViewRequest:
    """Models whose name has TEXT, or that a filter in MLflow's own words finds. The server searches."""
    view = "registry-versions" if versions else "registry-models"
    return ViewRequest(view, args={"q": text, "limit": limit, "page": page})


@leaf(
    registry,
    "show",
    examples=(
        ("airboss registry show support-bot", "its versions, newest first, and its aliases"),
        ("airboss registry show support-bot/12", "version 12: tags, run, data, files with their digests"),
        ("airboss registry show support-bot@champion -o yaml", "the version that an alias names"),
    ),
)
@click.argument("model", metavar="MODEL[/VERSION|@ALIAS]")
@_paging
def show(model: str, limit: int, page: str) -> ViewRequest:
    """A model with its versions, or one version with all that is known of it."""
    name, version = version_of(model)
    if not version:
        return ViewRequest("registry-model", args={"model": name, "limit": limit, "page": page})
    return ViewRequest("registry-version", args={"model": name, "version": version})


@leaf(
    registry,
    "import",
    acting=True,
    examples=(
        ("airboss registry import support-bot/12 --service chat --dry-run", "could it be, and how much is it"),
        (
            "airboss registry import support-bot@champion --service chat --yes",
            "release support-bot-v12, ready to deploy",
        ),
    ),
)
@click.argument("model", metavar="MODEL/VERSION|MODEL@ALIAS")
@click.option("--service", required=True, help="The service that it is a release of.")
@click.option("--as", "name", metavar="NAME", help="The release's name (default: MODEL-vVERSION).")
def import_(model: str, service: str, name: str | None) -> Any:
    """Make a registry's version a release: copied, every file hashed, converted where it must be. Pickles are refused.

    The registry is not written to: no rollout of this release moves an alias there.
    """
    found, version = version_of(model)
    if not version:
        raise UsageError(
            f"which version of {found}?",
            hint=f"`airboss registry show {found}` lists them: {found}/7, {found}@champion",
        )
    return verb_request("registry.import", ref_of("service", service), model=found, version=version, name=name)
