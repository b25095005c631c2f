"""A script from its file or from standard input: read, checked whole, and run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from console.commands.script_lines import read
from console.commands.scripting import Runner
from console.output import Outcome
from console.script import Script
from state.words import UsageError

if TYPE_CHECKING:
    from console.commands.context import Context


def run_script_file(context: Context, *, source: str, settings: tuple[str, ...]) -> Outcome:
    """Read, check and run a script. The outcome's exit is that of the line it stopped at."""
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the script {source} cannot be read: {error}", hint="--script FILE, or - for stdin"
        ) from error
    pairs = [pair.partition("=") for pair in settings]
    if bad := next((pair for pair in pairs if not pair[1] or not pair[0].isidentifier()), None):
        raise UsageError(f"--set {''.join(bad)}: not NAME=VALUE")
    script = Script(read(text), context.options, {name: value for name, _, value in pairs})
    script.check(_protection(context))
    return Runner(script, context).run()


def _protection(context: Context) -> Callable[[str], bool]:
    """Whether an environment is protected, as far as this host's configuration says."""
    if context.engine_url:
        return lambda env: False
    return lambda env: (known := context.config.environment.get(env)) is None or known.protected
