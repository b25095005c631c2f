"""The command tree's own kinds of click commands: they return requests, take every global option, and teach in --help."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from console.commands.completing import with_live_names
from console.commands.options import DURATION as DURATION
from console.commands.options import HelpWanted as HelpWanted
from console.commands.options import break_glass as break_glass
from console.commands.options import given_options as given_options
from console.commands.options import global_options as global_options

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Example = tuple[str, str]
"""A command line, and what it does."""

SETTINGS: dict[str, Any] = {"max_content_width": 110}


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
        if not args and not ctx.resilient_parsing:
            raise click.UsageError(f"which of its verbs? {', '.join(self.list_commands(ctx))}", ctx)
        return super().parse_args(ctx, args)


def leaf(
    parent: Noun | None, name: str, *, examples: Sequence[Example] = (), acting: bool = False
) -> Callable[[Callable[..., Any]], Leaf]:
    """Make the function below a command named `name`; its docstring is the help. `acting` for what changes things."""

    def make(function: Callable[..., Any]) -> Leaf:
        params: list[click.Parameter] = list(reversed(getattr(function, "__click_params__", [])))
        with_live_names(parent.name or "" if parent else name, params)
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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        """The commands, without loading any; else the options."""
        from click.shell_completion import CompletionItem

        rows = [(name, help) for _, places in self.sections for name, _, help in places]
        found = [CompletionItem(name, help=help) for name, help in rows if name.startswith(incomplete)]
        return found if incomplete[:1] != "-" else click.Command.shell_complete(self, ctx, incomplete)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, or an error that names the nearest ones."""
        if args[0] not in self.places and not args[0].startswith("-") and not ctx.resilient_parsing:
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
