"""The way in: `run_console` checks the terminal, tells textual what it must know before it is imported, and runs."""

from __future__ import annotations

import os
from collections.abc import Callable

from console.client import EngineClient
from console.tui.crash import report_dir
from console.tui.keymap import VIEW_ALIASES
from console.tui.terminal import prepare, require
from state.words import UsageError


def run_console(
    client_factory: Callable[[], EngineClient], *, read_only: bool = False, view: str = "fleet", tour: bool = False
) -> int:
    """Show the console until it is left; the process's exit code. With `tour`, a user's first run begins with it.

    Raises UsageError where no terminal can carry it, or there is no such view. It neither starts nor stops an engine.
    """
    require(os.environ)
    first = VIEW_ALIASES.get(view)
    if first is None:
        raise UsageError(
            f"the console has no view {view!r}", hint=f"one of {', '.join(sorted(set(VIEW_ALIASES.values())))}"
        )
    prepare(os.environ)
    from console.tui.console_app import ConsoleApp

    app = ConsoleApp(client_factory, read_only=read_only, view=first, watch_terminal=True)
    if tour:
        app.tour_mark = report_dir(os.environ) / "tour-shown"
    app.run(mouse=False)
    return app.return_code or 0
