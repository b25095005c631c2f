"""`demo`: the whole loop on real text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from console.commands.requests import LocalRequest
from console.commands.tree import leaf

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.output import Outcome


@leaf(
    None,
    "demo",
    examples=(
        ("airboss demo", "in ./airboss-demo, with the console open beside it"),
        (
            "airboss demo --headless -o json > demo.json",
            "progress on stderr, one document on stdout; exit 0 only if all acts did",
        ),
        ("airboss demo --headless --text ~/books", "on your own text"),
        ("airboss demo --with servers.toml", "on the servers that its [registry], [metrics], [state], [alerts] name"),
    ),
)
@click.argument("directory", required=False, default="airboss-demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--headless", is_flag=True, help="Without the console.")
@click.option("--text", type=click.Path(path_type=Path), metavar="PATH", help="A text file or a folder of them.")
@click.option("--no-fault", is_flag=True, help="Act 4 with a healthy release: it must not be rolled back.")
@click.option("--cut-evidence", is_flag=True, help="With the judge's data cut off: act 3 must pause, not pass.")
@click.option("--keep", is_flag=True, help="Leave everything running at the end.")
@click.option(
    "--with", "servers", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Tables for the demo's airboss.toml: real servers in the place of what is embedded.",
)  # fmt: skip
def demo(
    directory: Path,
    headless: bool,
    text: Path | None,
    no_fault: bool,
    cut_evidence: bool,
    keep: bool,
    servers: Path | None,
) -> LocalRequest:
    """Four acts, all real: make a release from text, launch it, advance to a better one, recover from a bad one."""
    return LocalRequest(
        "console.commands.demo:play",
        {
            "directory": directory,
            "headless": headless,
            "text": text,
            "fault": not no_fault,
            "cut_evidence": cut_evidence,
            "keep": keep,
            "servers": servers,
        },
    )


def play(context: Context, **chosen: object) -> Outcome:
    """Hand over to the demo; it prints by itself and its exit code is ours."""
    import importlib
    import sys

    from console.demo.options import DemoOptions
    from console.output import Outcome
    from state.words import ExitCode

    headless = bool(chosen["headless"]) or not (sys.stdin.isatty() and sys.stdout.isatty())
    options = DemoOptions(as_json=context.options.output == "json", **{**chosen, "headless": headless})  # type: ignore[arg-type]
    code = importlib.import_module("console.demo.command").run_demo(options)
    return Outcome.printed(ExitCode(int(code or 0)))
