"""The command tree's own kinds of click commands: they return requests, take every global option, and teach in --help."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from console.commands.requests import FORMATS

Example = tuple[str, str]
"""A command line, and what it does."""

if TYPE_CHECKING:
    _FloatParam = click.ParamType[float]
else:
    _FloatParam = click.ParamType  # generic in newer releases of click only

_META = "airboss.options"
SETTINGS: dict[str, Any] = {"max_content_width": 110}


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
    if value:
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


class _Teaching(click.Command):
    """Help that ends in examples."""

    examples: Sequence[Example] = ()
    more = "`airboss help options` lists what every command takes."

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, one line each with what it does under it."""
        if self.examples:
            with formatter.section("Examples"):
                for line, meaning in self.examples:
                    formatter.write(f"  {line}\n      {meaning}\n")
        if self.more:
            formatter.write(f"\n{self.more}\n")


class Leaf(_Teaching):
    """A command. Its callback returns a request and has no effect."""

    def __init__(
        self,
        name: str,
        *,
        callback: Callable[..., Any],
        params: list[click.Parameter],
        help: str,
        examples: Sequence[Example],
        acting: bool,
    ) -> None:
        # A command's own options win over a global one of the same name (`--set`, `--env` never clash).
        taken = {name for param in params for name in param.opts}
        others = [p for p in global_options(general=False, acting=acting) if not taken.intersection(p.opts)]
        super().__init__(
            name,
            callback=callback,
            params=[*params, *others],
            help=help,
            add_help_option=False,
            context_settings=SETTINGS,
        )
        self.examples = examples


class Noun(_Teaching, click.Group):
    """A noun with its verbs."""

    def __init__(self, name: str, help: str, examples: Sequence[Example] = ()) -> None:
        super().__init__(
            name,
            params=global_options(general=False, acting=False),
            help=help,
            add_help_option=False,
            context_settings=SETTINGS,
        )
        self.examples = examples

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Its verbs in the order in which they are written: what is looked at first stands first."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but a noun alone is an error that shows its verbs on stderr."""
        if not args:
            raise click.UsageError(f"which of its verbs? {', '.join(self.list_commands(ctx))}", ctx)
        return super().parse_args(ctx, args)


def leaf(
    parent: Noun | None, name: str, *, examples: Sequence[Example] = (), acting: bool = False
) -> Callable[[Callable[..., Any]], Leaf]:
    """Make the function below a command named `name`; its docstring is the help. `acting` for what changes things."""

    def make(function: Callable[..., Any]) -> Leaf:
        params: list[click.Parameter] = list(reversed(getattr(function, "__click_params__", [])))
        command = Leaf(
            name, callback=function, params=params, help=function.__doc__ or "", examples=examples, acting=acting
        )
        if parent is not None:
            parent.add_command(command)
        return command

    return make


Place = tuple[str, str, str]
"""A command at the top: its name, where it is defined (`module:attribute`), one line about it."""


class Root(_Teaching, click.Group):
    """`airboss` itself: knows where each command lives and loads only the one that is used."""

    def __init__(
        self,
        sections: Sequence[tuple[str, Sequence[Place]]],
        callback: Callable[..., Any],
        params: list[click.Parameter],
        help: str,
        examples: Sequence[Example],
    ) -> None:
        super().__init__(
            "airboss",
            callback=callback,
            help=help,
            add_help_option=False,
            invoke_without_command=True,
            context_settings=SETTINGS,
            params=[*params, *global_options(general=True, acting=False)],
        )
        self.sections = sections
        self.examples = examples
        self.places = {name: place for _, places in sections for name, place, _ in places}

    more = (
        "`airboss COMMAND --help` teaches each; `airboss help TOPIC`: exit-codes, options, scripts, wait, config, ..."
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command at the top, in the order of the help."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, loaded now."""
        place = self.places.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or an error that names the nearest ones."""
        if args[0] not in self.places and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.places, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands first: they are what one looks for here."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by section, without loading any."""
        width = max(len(name) for name in self.places)
        for title, places in self.sections:
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, _, summary in places])
