"""The lines of a script: reading them, the variables in them, and what `let` and `set` say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from console.commands import expressions
from console.commands.grammar import VIEW_WORDS, root
from state.words import UsageError

LAST = "LAST"
OUTCOME = "OUTCOME"
"""What the rollout that was waited for last has come to; see `conditions.outcome`."""
UNKNOWN = "1"
"""Stands for a value that only running will tell, while the script is checked: a name, a number and a weight at once."""
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)|(\$))")
_FIELD = re.compile(r"\.[A-Za-z0-9_@-]+(?:\.[A-Za-z0-9_@-]+)*")
_LET = re.compile(r"let\s+([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
Word = Literal["verb", "set", "let", "wait", "expect", "on-failure", "echo", "sleep"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: where it stands, what it says, what kind it is, and the text behind its first word."""

    number: int
    text: str
    word: Word
    rest: str


def read(source: str) -> list[Line]:
    """The lines of a script; comments and empty lines are left out, a trailing backslash joins two."""
    found: list[Line] = []
    begin, held = 0, ""
    for number, raw in enumerate(source.splitlines(), start=1):
        begin = begin if held else number
        if raw.rstrip().endswith("\\"):
            held += raw.rstrip()[:-1] + " "
            continue
        text, held = (held + raw).strip(), ""
        if text and not text.startswith("#"):
            found.append(_line(begin, _without_comment(text)))
    if held:
        raise UsageError(f"line {begin}: the last line ends in a backslash")
    return found


def _line(number: int, text: str) -> Line:
    first, _, rest = text.partition(" ")
    words: dict[str, Word] = {
        "set": "set",
        "let": "let",
        "wait": "wait",
        "expect": "expect",
        "on-failure": "on-failure",
        "echo": "echo",
        "sleep": "sleep",
    }
    return Line(number, text, words.get(first, "verb"), rest.strip())


def _without_comment(text: str) -> str:
    """`text` up to a # that stands after a space and outside quotation marks."""
    quote = ""
    for at, ch in enumerate(text):
        if quote:
            quote = "" if ch == quote else quote
        elif ch in "'\"":
            quote = ch
        elif ch == "#" and at and text[at - 1].isspace():
            return text[:at].rstrip()
    return text


def expand(text: str, values: Mapping[str, str]) -> str:
    """`text` with $NAME and ${NAME} put in; $$ is a dollar. Raises UsageError for a name nobody has set."""

    def value(match: re.Match[str]) -> str:
        if match.group(3):
            return "$"
        name = match.group(1) or match.group(2)
        if name not in values:
            raise UsageError(f"${name} is not set", hint=f"let {name} = ..., or --set {name}=...")
        return values[name]

    return _VARIABLE.sub(value, text)


def assignment(line: Line) -> tuple[str, str]:
    match = _LET.fullmatch(line.text)
    if match is None:
        raise UsageError("let NAME = VALUE", hint="for example let REL = charlm-3")
    name, value = match.group(1), match.group(2).strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return name, value


def assigned_command(line: Line) -> tuple[str, str] | None:
    """The command of `let R = deploy ...` and the field behind its `| .field`; None when the value is text or a field.

    A single word, and anything in quotation marks, is text.
    """
    match = _LET.fullmatch(line.text)
    value = match.group(2).strip() if match else ""
    words = value.split()
    if len(words) < 2 or words[0] not in {*root.places, *VIEW_WORDS}:
        return None
    command, bar, picked = value.rpartition(" | ")
    if not bar:
        return value, ""
    if not _FIELD.fullmatch(picked.strip()):
        raise UsageError(f"| {picked.strip()} is no field", hint="for example let W = rollout show ro-3 | .weight")
    return command.strip(), picked.strip()[1:]


def variables_in(text: str) -> set[str]:
    """The names of the variables that `text` uses."""
    return {match.group(1) or match.group(2) for match in _VARIABLE.finditer(text) if not match.group(3)}


def field_path(value: str, values: Mapping[str, str]) -> str:
    """The path in `{rollout/ro-3.state}`. Raises UsageError when it is none."""
    path = expand(value.strip("{}").strip(), {LAST: f"rollout/{UNKNOWN}", **values})
    found = expressions.paths(expressions.parse(f"{path} == 0")) if value.endswith("}") else []
    if found != [path]:
        raise UsageError(f"{value} is no field", hint="for example let WAS = {service/chat@production.release_id}")
    return path


def stops_at_failure(line: Line) -> bool:
    if line.rest not in ("-e", "+e"):
        raise UsageError(f"set {line.rest}: only -e (stop at a failed line) and +e (go on)")
    return line.rest == "-e"
