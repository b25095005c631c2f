"""`init`, `doctor`, `config show`, `--version`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.commands.requests import LocalRequest
from console.commands.tree import Noun, leaf

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.output import Outcome


@leaf(
    None,
    "init",
    examples=(
        ("airboss init", "here"),
        ("airboss init shop --service search", "in a new directory, for a service of that name"),
    ),
)
@click.argument("directory", required=False, default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option("--service", default="chat", show_default=True, help="The first service's name.")
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT", help="The gateway's address."
)
def init(directory: Path, service: str, listen: str) -> LocalRequest:
    """Write a commented airboss.toml: a service, dev and production, policies, a pipeline. Never overwrites one."""
    return LocalRequest("console.init:init", {"directory": directory, "service": service, "listen": listen})


@leaf(None, "doctor", examples=(("airboss doctor", "each check, and what to do; exits 1 if one fails"),))
def doctor() -> LocalRequest:
    """Look for what is wrong: workspace, configuration, disk, engine, gateway, store, who is paged.

    Where something serves, also for the five faults of model serving, on evidence: memory (replicas' logs, the kernel's count),
    speed (p95 against the objective, queues, KV cache, load), refusals (too many at once), answers (one question at temperature 0,
    asked twice of every replica), starts (replicas and containers that do not come up). Each comes with what to do.
    """
    return LocalRequest("console.doctor:examine")


config = Noun(
    "config", help="The configuration in effect.", examples=(("airboss config show", "with the defaults filled in"),)
)


@leaf(config, "show", examples=(("airboss config show -o json", "for a program"),))
def show() -> LocalRequest:
    """airboss.toml with every default filled in."""
    return LocalRequest("console.commands.workspace:show_config")


@leaf(
    config,
    "diff",
    acting=True,
    examples=(("airboss config diff", "what airboss.toml says otherwise than what holds, and whose admin must agree"),),
)
def diff() -> Any:
    """Roles, policies, environments and freezes that the file has changed and nobody has applied."""
    from console.commands.refs import ref_of, verb_request

    return verb_request("config.apply", ref_of("engine", "engine")).model_copy(update={"dry_run": True})


@leaf(
    config,
    "apply",
    acting=True,
    examples=(
        ("airboss config apply --dry-run", "what would hold, and who must agree"),
        ("airboss config apply --yes --confirm-name shop --reason 'lea joins the leads'", "as an admin; audited"),
    ),
)
def apply() -> Any:
    """Let the file's roles, policies, environments and freezes hold, as an admin of all that changes."""
    from console.commands.refs import ref_of, verb_request

    return verb_request("config.apply", ref_of("engine", "engine"))


def show_config(context: Context) -> Outcome:
    """The configuration in effect."""
    import yaml

    from console.output import Outcome, Text
    from state.config import load_config

    found = load_config(context.paths.root).model_dump(mode="json")
    shown = yaml.safe_dump(found, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
    return Outcome("Config", [found], blocks=(Text(shown),), names=(f"config/{context.paths.root.name}",))


def show_version(context: Context) -> Outcome:
    """The version, as installed."""
    from importlib.metadata import version

    from console.output import Outcome, Text

    found = version("airboss")
    return Outcome("Version", [{"version": found}], blocks=(Text(f"airboss {found}"),), names=(found,))
