"""`airboss --script`: lines of the grammar, read and checked whole before the first one runs.

The language is in `airboss help scripts`. Nothing here imports the console's screens; nothing is ever asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from console.commands import expressions
from console.commands.conditions import Condition
from console.commands.grammar import HelpWanted, LocalRequest, Parsed, ViewRequest, duration, parse_args, split
from console.commands.script_lines import (
    LAST,
    OUTCOME,
    UNKNOWN,
    Line,
    assigned_command,
    assignment,
    expand,
    field_path,
    stops_at_failure,
)
from engine.verbs import VERBS, Confirm
from state.words import AirbossError, UsageError

if TYPE_CHECKING:
    from console.commands.requests import Options

_NOT_IN_SCRIPTS = {
    "console.cli:open_console": "the console",
    "console.script_file:run_script_file": "a script",
    "console.commands.demo:play": "the demo",
    "console.commands.serving:serve": "`serve`",
}


@dataclass(slots=True)
class Wait:
    """What a `wait` line says."""

    ref: str
    condition: Condition
    timeout_s: float | None


@dataclass
class Script:
    """A script that has been read. `check` it, then `run` it."""

    lines: Sequence[Line]
    options: Options
    settings: Mapping[str, str] = field(default_factory=dict)

    def check(self, is_protected: Callable[[str], bool] = lambda env: False) -> None:
        """Understand every line without running any. Raises UsageError that names each line in question."""
        known = {OUTCOME: "none", **self.settings}
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
            if command := assigned_command(line):
                parsed = self.parse(as_verb(line, command[0]), {LAST: UNKNOWN, **known})
                self._check_confirmed(parsed, is_protected)
                value = UNKNOWN if command[1] else _likely_ref(parsed.request)
            elif value.startswith("{"):
                field_path(value, known)
                value = UNKNOWN
            else:
                value = expand(value, known)
            known[name] = self.settings.get(name, value)
        elif line.word == "set":
            stops_at_failure(line)
        elif line.word == "expect":
            # $LAST is no path before the script runs; a rollout's stands for it.
            expressions.parse(expand(line.rest, {**known, LAST: f"rollout/{UNKNOWN}"}))
        elif line.word == "wait":
            self.wait(line, {LAST: UNKNOWN, **known}, is_check=True)
        elif line.word == "sleep":
            duration(expand(line.rest, known))
        elif line.word == "echo":
            expand(line.rest, {LAST: "", **known})
        elif not (line.word == "on-failure" and line.rest == "none"):
            parsed = self.parse(line, {LAST: UNKNOWN, **known})
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
        request = self._with_options(request, line.number)
        return replace(parsed, options=_merged(self.options, parsed.options), request=request)

    def _with_options(self, request: Any, number: int) -> Any:
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
                # A key for the whole script is one for each of its lines: a key is for one request.
                "idempotency_key": request.idempotency_key
                or (f"{ours.idempotency_key}/{number}" if ours.idempotency_key else ""),
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
        if len(refs) != 1 or not given.get("--for"):
            raise UsageError(
                "wait REF --for COND [--timeout T]", hint="for example wait $LAST --for completed --timeout 20m"
            )
        kind = refs[0].partition("/")[0]
        timeout_s = duration(given["--timeout"]) if given.get("--timeout") else None
        if is_check and refs == [UNKNOWN]:
            # What an earlier line makes or finds is not known yet: the reference is checked when it is.
            _either_condition(given["--for"])
            return Wait(refs[0], Condition("rollout", "done"), timeout_s)
        return Wait(refs[0], Condition.parse(given["--for"], kind), timeout_s)


def as_verb(line: Line, command: str) -> Line:
    """The line as if the command that it assigns stood there alone."""
    return replace(line, text=command, word="verb", rest="")


def _likely_ref(request: Any) -> str:
    """Stands for the reference that a command will give, while the script is checked."""
    made = {"deploy": "rollout", "pipeline.run": "run"}.get(getattr(request, "verb", ""))
    return f"{made}/{UNKNOWN}" if made else UNKNOWN


def _either_condition(text: str) -> None:
    """`text` must be a condition of something that a verb makes."""
    try:
        Condition.parse(text, "rollout")
    except UsageError as error:
        try:
            Condition.parse(text, "run")
        except UsageError:
            raise error from None


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
    )
