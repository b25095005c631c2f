"""`completion`: the lines that teach a shell this grammar, and the answers that the shell then asks for."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from console.commands.requests import LocalRequest
from console.commands.tree import leaf
from console.output import Outcome, Text

VARIABLE = "_AIRBOSS_COMPLETE"
LIMIT_S = 2.0
"""After this the answer is empty: a shell that hangs at a key is worse than one that knows no names."""


@leaf(
    None,
    "completion",
    examples=(
        ("airboss completion bash > ~/.local/share/bash-completion/completions/airboss", "once"),
        (
            "airboss completion zsh > ~/.zfunc/_airboss",
            "with `fpath+=~/.zfunc; autoload -U compinit; compinit` in ~/.zshrc",
        ),
        ("airboss completion fish > ~/.config/fish/completions/airboss.fish", "once"),
    ),
)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> LocalRequest:
    """Print what teaches your shell this grammar: nouns, verbs, options, and the names of what is there now.

    Names come from airboss.toml and the store's file (with --engine or AIRBOSS_ENGINE from that engine). No engine is started.
    """
    return LocalRequest("console.commands.completion:show", {"shell": shell})


def show(context: Any, *, shell: str) -> Outcome:
    """The script of a shell."""
    from console.commands.grammar import root

    # The base's: bash's own looks for a bash on this host first, and the script may be for another.
    script = ShellComplete.source(_SHELLS[shell](root, {}, "airboss", VARIABLE))
    return Outcome("Completion", [{"shell": shell, "script": script}], blocks=(Text(script.strip()),), names=(shell,))


class _Expanding(ShellComplete):
    """A shell's completion that knows the short words of views (`rollouts @dev`) and a bare `--wait`."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """What may stand at the cursor."""
        from console.commands.grammar import VIEW_WORDS, root, spelled_out

        args = spelled_out(args)
        if args and args[0][:1] not in ("", "-") and args[0] not in root.places:
            return []
        found = super().get_completions(args, incomplete)
        if not args:
            known = {item.value for item in found}
            found += [
                CompletionItem(w) for w in VIEW_WORDS if w.startswith(incomplete) and incomplete and w not in known
            ]
        return found


class _Bash(_Expanding, BashComplete):
    pass


class _Zsh(_Expanding, ZshComplete):
    pass


class _Fish(_Expanding, FishComplete):
    pass


_SHELLS: Mapping[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def answer(instruction: str) -> int:
    """Answer a shell that asks by VARIABLE (`bash_complete`). Says nothing but names, whatever goes wrong, and never waits long."""
    from console.commands.grammar import root

    signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    shell, _, asked = instruction.partition("_")
    kind = _SHELLS.get(shell)
    if kind is None or asked != "complete":
        return 2
    try:
        said = kind(root, {}, "airboss", VARIABLE).complete()
    except Exception:  # at a prompt there is no place for any trouble: the command itself will tell of it
        return 0
    sys.stdout.write(said + "\n")
    return 0
