"""`airboss`: the command line. Parses, performs, prints, and leaves with the enum's code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from console import diagnostics
from console.commands.grammar import HelpWanted, parse_args
from state.words import AirbossError, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.output import Outcome


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command line. Never returns: exits by `state.words.ExitCode`."""
    if asked := os.environ.get("_AIRBOSS_COMPLETE"):
        from console.commands.completion import answer

        sys.exit(answer(asked))
    words = list(sys.argv[1:] if argv is None else argv)
    diagnostics.catch_signals()
    diagnostics.run_to_exit(lambda: run(words), as_json=diagnostics.wants_json(words))


def run(words: Sequence[str]) -> int:
    """The exit code of a command line. Raises AirbossError."""
    try:
        parsed = parse_args(words)
    except HelpWanted as wanted:
        sys.stdout.write(wanted.text.rstrip("\n") + "\n")
        return 0
    from console.commands.context import Context
    from console.commands.perform import perform
    from console.commands.requests import LocalRequest
    from console.output import Output

    request = parsed.request
    is_script = isinstance(request, LocalRequest) and request.target == "console.script_file:run_script_file"
    if parsed.options.output == "junit" and not is_script:
        raise UsageError("-o junit is the report of a script", hint="airboss --script FILE -o junit; else -o json")
    context = Context(parsed.options, Output(parsed.options.output))
    outcome = perform(parsed, context)
    context.output.show(outcome)
    for line in outcome.notes:
        diagnostics.note(line)
    if outcome.error is not None:
        diagnostics.report(outcome.error, as_json=context.is_json)
    return int(outcome.exit)


def open_console(context: Context) -> Outcome:
    """The full-screen console, on a terminal that can show one. Without an engine it says so, grey, and waits for one."""
    from console.output import Outcome
    from state.words import ExitCode

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("the console needs a terminal", hint="`airboss status` and `airboss --help` need none")
    if os.environ.get("TERM", "dumb") == "dumb":
        raise UsageError(
            "this terminal cannot be drawn on (TERM=dumb)", hint="use commands, or `airboss --script FILE`"
        )
    from console.client import EngineClient

    url, paths = context.engine_url, None if context.engine_url else context.paths

    def client() -> EngineClient:
        return EngineClient.at_url(url) if paths is None else EngineClient.at_socket(paths.live_engine_socket())

    try:
        from console.tui.app import run_console
    except ImportError as error:
        raise AirbossError(f"the console cannot be loaded: {error}", hint="install airboss again") from error
    code = run_console(client, read_only=context.is_read_only, tour=True)
    return Outcome.printed(ExitCode(int(code or 0)))


if __name__ == "__main__":
    main()
