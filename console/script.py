"""`airboss --script`: lines of the grammar, read and checked whole before the first one runs.

The language is in `airboss help scripts`. Nothing here imports the console's screens; nothing is ever asked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from console.commands import expressions
from console.commands.conditions import Condition
from console.commands.grammar import HelpWanted, LocalRequest, Parsed, ViewRequest, duration, parse_args, split
from console.output import Outcome
from engine.verbs import VERBS, Confirm
from state.words import AirbossError, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.commands.requests import Options

LAST = "LAST"
_UNKNOWN = "1"
"""Stands for a value that only running will tell, while the script is checked: a name, a number and a weight at once."""
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*)|(\$))")
_LET = re.compile(r"let\s+([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_NOT_IN_SCRIPTS = {
    "console.cli:open_console": "the console",
    "console.script:run_script_file": "a script",
    "console.commands.demo:play": "the demo",
    "console.commands.serving:serve": "`serve`",
}
Word = Literal["verb", "set", "let", "wait", "expect", "on-failure", "echo", "sleep"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: where it stands, what it says, what kind it is, and the text behind its first word."""

    number: int
    text: str
    word: Word
    rest: str


@dataclass(slots=True)
class Wait:
    """What a `wait` line says."""

    ref: str
    condition: Condition
    timeout_s: float | None


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


@dataclass
class Script:
    """A script that has been read. `check` it, then `run` it."""

    lines: Sequence[Line]
    options: Options
    settings: Mapping[str, str] = field(default_factory=dict)

    def check(self, is_protected: Callable[[str], bool] = lambda env: False) -> None:
        """Understand every line without running any. Raises UsageError that names each line in question."""
        known = dict(self.settings)
        wrong: list[str] = []
        for line in self.lines:
            try:
                self._check(line, known, is_protected)
            except AirbossError as error:
                wrong.append(f"line {line.number}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
        if wrong:
            raise UsageError("\n".join(wrong), hint="nothing was run", code="script")

    def _check(self, line: Line, known: dict[str, str], is_protected: Callable[[str], bool]) -> None:
        if line.word == "let":
            name, value = assignment(line)
            if value.startswith("{"):
                field_path(value, known)
                value = _UNKNOWN
            else:
                value = expand(value, known)
            known[name] = self.settings.get(name, value)
        elif line.word == "set":
            stops_at_failure(line)
        elif line.word == "expect":
            # $LAST is no path before the script runs; a rollout's stands for it.
            expressions.parse(expand(line.rest, {**known, LAST: f"rollout/{_UNKNOWN}"}))
        elif line.word == "wait":
            self.wait(line, {LAST: "", **known}, is_check=True)
        elif line.word == "sleep":
            duration(expand(line.rest, known))
        elif line.word == "echo":
            expand(line.rest, {LAST: "", **known})
        elif not (line.word == "on-failure" and line.rest == "none"):
            parsed = self.parse(line, {LAST: _UNKNOWN, **known})
            self._check_confirmed(parsed, is_protected)

    def parse(self, line: Line, values: Mapping[str, str]) -> Parsed:
        """The line, understood with these variables. Raises UsageError, also for what a script cannot do."""
        text = line.rest if line.word == "on-failure" else line.text
        words = [expand(word, values) for word in split(text)]
        if not words:
            raise UsageError("a verb is missing", hint="for example on-failure rollback chat --env production --yes")
        try:
            parsed = parse_args(words)
        except HelpWanted:
            raise UsageError("--help has no place in a script") from None
        request = parsed.request
        if isinstance(request, LocalRequest) and request.target in _NOT_IN_SCRIPTS:
            raise UsageError(f"{_NOT_IN_SCRIPTS[request.target]} cannot run inside a script")
        if isinstance(request, ViewRequest) and request.args.get("watch"):
            raise UsageError("a script cannot watch", hint="`wait REF --for COND` waits")
        return replace(parsed, options=_merged(self.options, parsed.options), request=self._with_options(request))

    def _with_options(self, request: Any) -> Any:
        """Options given to the script as a whole hold for each verb that does not say otherwise."""
        if isinstance(request, ViewRequest | LocalRequest):
            return request
        ours = self.options
        return request.model_copy(
            update={
                "dry_run": request.dry_run or ours.dry_run,
                "yes": request.yes or ours.yes,
                "confirm_name": request.confirm_name or ours.confirm_name,
                "reason": request.reason or ours.reason,
            }
        )

    def _check_confirmed(self, parsed: Parsed, is_protected: Callable[[str], bool]) -> None:
        request = parsed.request
        if isinstance(request, ViewRequest | LocalRequest) or request.dry_run:
            return
        env = str(request.args.get("env") or "")
        protected, verb = bool(env) and is_protected(env), VERBS[request.verb]
        rung = verb.confirm_in(protected, request.break_glass)
        missing = ["--yes"] if rung >= Confirm.YES and not (request.yes or request.confirm_name) else []
        missing += ["--confirm-name NAME"] if rung >= Confirm.NAME and not request.confirm_name else []
        missing += ["--reason TEXT"] if verb.asks_reason(protected, request.break_glass) and not request.reason else []
        if missing:
            raise UsageError(f"{request.verb} must be confirmed: add {' '.join(missing)}")

    def wait(self, line: Line, values: Mapping[str, str], *, is_check: bool = False) -> Wait:
        """`wait REF --for COND --timeout T`."""
        words = [expand(word, values) for word in split(line.rest)]
        given: dict[str, str] = {}
        refs: list[str] = []
        at = iter(words)
        for word in at:
            flag, eq, value = word.partition("=")
            if flag in ("--for", "--timeout"):
                given[flag] = value if eq else next(at, "")
            elif word.startswith("--"):
                raise UsageError(f"wait takes --for and --timeout, not {word}")
            else:
                refs.append(word)
        if is_check and "$LAST" in line.rest.replace("{", "").replace("}", ""):
            # What the last verb made is not known yet: the condition is checked when it is.
            refs = ["rollout/1"]
        if len(refs) != 1 or not given.get("--for"):
            raise UsageError(
                "wait REF --for COND [--timeout T]", hint="for example wait $LAST --for completed --timeout 20m"
            )
        kind = refs[0].partition("/")[0]
        timeout_s = duration(given["--timeout"]) if given.get("--timeout") else self.options.timeout_s
        if is_check and "$LAST" in line.rest:
            _either_condition(given["--for"])
            return Wait(refs[0], Condition("rollout", "done"), timeout_s)
        return Wait(refs[0], Condition.parse(given["--for"], kind), timeout_s)


def _either_condition(text: str) -> None:
    """`text` must be a condition of something that a verb makes."""
    try:
        Condition.parse(text, "rollout")
    except UsageError as error:
        try:
            Condition.parse(text, "run")
        except UsageError:
            raise error from None


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


def field_path(value: str, values: Mapping[str, str]) -> str:
    """The path in `{rollout/ro-3.state}`. Raises UsageError when it is none."""
    path = expand(value.strip("{}").strip(), {LAST: f"rollout/{_UNKNOWN}", **values})
    found = expressions.paths(expressions.parse(f"{path} == 0")) if value.endswith("}") else []
    if found != [path]:
        raise UsageError(f"{value} is no field", hint="for example let WAS = {service/chat@production.release_id}")
    return path


def stops_at_failure(line: Line) -> bool:
    if line.rest not in ("-e", "+e"):
        raise UsageError(f"set {line.rest}: only -e (stop at a failed line) and +e (go on)")
    return line.rest == "-e"


def _merged(ours: Options, theirs: Options) -> Options:
    """The line's options; what it leaves open comes from the script's."""
    return replace(
        theirs,
        output=ours.output,
        workspace=ours.workspace,
        engine=ours.engine,
        read_only=ours.read_only or theirs.read_only,
        dry_run=ours.dry_run or theirs.dry_run,
        yes=ours.yes or theirs.yes,
        confirm_name=theirs.confirm_name or ours.confirm_name,
        reason=theirs.reason or ours.reason,
        timeout_s=theirs.timeout_s if theirs.timeout_s is not None else ours.timeout_s,
    )


def run_script_file(context: Context, *, source: str, settings: tuple[str, ...]) -> Outcome:
    """Read, check and run a script. The outcome's exit is that of the line it stopped at."""
    from console.commands.scripting import Runner

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
