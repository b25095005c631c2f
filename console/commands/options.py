"""The options that every command takes, and the types of their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.commands.requests import FORMATS

if TYPE_CHECKING:
    _FloatParam = click.ParamType[float]
else:
    _FloatParam = click.ParamType  # generic in newer releases of click only

_META = "airboss.options"


def break_glass(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option of the verbs that may go past what forbids them."""
    return click.option(
        "--break-glass",
        is_flag=True,
        help="Past an approval, a freeze or the second person; takes --reason, flagged until somebody else acknowledges it.",
    )(function)


class HelpWanted(Exception):
    """`--help` was given; `text` is the answer. The front decides where it is shown."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class DurationType(_FloatParam):
    """`90`, `90s`, `5m`, `1h30m` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. Fails with what is allowed."""
        from state.config_types import parse_duration

        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, False, ()):
        ctx.meta.setdefault(_META, {})[param.name] = value


def given_options(ctx: click.Context) -> dict[str, Any]:
    """The global options that stood anywhere on the line; the innermost place wins."""
    return dict(ctx.meta.get(_META, {}))


def _show_help(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        raise HelpWanted(ctx.get_help())


def _option(*names: str, hidden: bool, **attrs: Any) -> click.Option:
    return click.Option(names, expose_value=False, callback=_remember, hidden=hidden, **attrs)


def global_options(*, general: bool, acting: bool) -> list[click.Parameter]:
    """Fresh option objects. `general` and `acting` say which of them this command's own help lists."""
    return [
        _option(
            "-o", "--output", type=click.Choice(FORMATS), hidden=not general, help="How to print (default: table)."
        ),
        _option(
            "--workspace",
            type=click.Path(path_type=Path),
            metavar="DIR",
            hidden=not general,
            help="The workspace (default: AIRBOSS_WORKSPACE, else the nearest parent with airboss.toml).",
        ),
        _option(
            "--engine",
            metavar="URL",
            hidden=not general,
            help="An engine by URL or unix:/path (default: AIRBOSS_ENGINE, else the workspace's own).",
        ),
        _option("--read-only", is_flag=True, hidden=not general, help="Refuse every verb that changes something."),
        _option(
            "--dry-run", is_flag=True, hidden=not (general or acting), help="Show what would change, change nothing."
        ),
        _option("--yes", "-y", is_flag=True, hidden=not (general or acting), help="Confirm without being asked."),
        _option(
            "--confirm-name",
            metavar="NAME",
            hidden=not (general or acting),
            help="Confirm by name where a hand would type it (the service's).",
        ),
        _option(
            "--wait",
            "wait",
            metavar="[=COND]",
            hidden=not (general or acting),
            help="Wait for the end, or for COND: paused, completed, step=2, 'weight>=25', ...",
        ),
        _option(
            "--timeout",
            "timeout_s",
            type=DURATION,
            metavar="T",
            hidden=not (general or acting),
            help="Give up waiting after T (90s, 5m); the work goes on. Exit 4.",
        ),
        _option("--reason", metavar="TEXT", hidden=not (general or acting), help="Why; kept in the audit log."),
        _option(
            "--expect-revision",
            type=int,
            metavar="N",
            hidden=not acting,
            help="Refuse (exit 6) if the object has moved past revision N.",
        ),
        _option(
            "--idempotency-key",
            metavar="KEY",
            hidden=not acting,
            help="Asked again with the same KEY it is not done twice (`airboss help retries`).",
        ),
        _option("--detailed-exitcode", is_flag=True, hidden=not general, help="Exit 10 when changes are found."),
        click.Option(
            ("-h", "--help"), is_flag=True, is_eager=True, expose_value=False, callback=_show_help, help="Show this."
        ),
    ]
