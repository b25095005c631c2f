"""Running a checked script: one line after the other, each with its event, until the end or the line it stops at."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands import expressions
from console.commands.conditions import outcome as came_to
from console.commands.junit import Case, report
from console.commands.objects import lookup
from console.commands.perform import perform
from console.commands.script_lines import (
    LAST,
    OUTCOME,
    Line,
    assigned_command,
    assignment,
    expand,
    field_path,
    stops_at_failure,
    variables_in,
)
from console.limits import OutOfTime, shielded, time_limit
from console.output import Outcome, Text, envelope
from console.script import Script, as_verb
from state.words import AirbossError, ExitCode, GateRefused, OperationFailed, TimedOut, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

HANDLER_S = 120.0
"""How long an `on-failure` line may take that says no --timeout of its own."""
FIRES_ON = frozenset({ExitCode.FAILED, ExitCode.TIMEOUT, ExitCode.GATE, ExitCode.INT, ExitCode.TERM})
"""Something was done and did not end well, or nobody is left to see it end. The other codes say that nothing was done
(usage, conflict, denied), that the engine cannot be asked (unreachable), or that a human has the next word (waiting)."""
_SKIPPED = Outcome("Skipped", [])


@dataclass
class Runner:
    """One run of a script."""

    script: Script
    context: Context
    values: dict[str, str] = field(default_factory=dict)
    on_failure: Line | None = None
    current: Line | None = None
    cases: list[Case] = field(default_factory=list)
    unchanged: set[str] = field(default_factory=set)
    """What verbs answered that found nothing to do: a wait for it is over."""
    unmade: set[str] = field(default_factory=set)
    """Variables that a dry run cannot know: what they name was not made."""
    began: float = field(default_factory=time.monotonic)

    def run(self) -> Outcome:
        """`play`, and with -o junit the report of it, also when a fault of ours ends it."""
        try:
            return self.play()
        finally:
            if self.context.options.output == "junit":
                played = {case.name for case in self.cases}
                rest = [name for line in self.script.lines if (name := _name(line)) not in played]
                self.context.output.raw(report([*self.cases, *(Case(name, is_skipped=True) for name in rest)]))

    def play(self) -> Outcome:
        """Play the lines. The exit is that of the line it stopped at or was ended in, 0 when it reached the end."""
        self.values |= {OUTCOME: "none", **self.script.settings}
        limit_s = self.context.options.timeout_s
        try:
            with time_limit(limit_s):
                code = self._lines()
        except OutOfTime:
            code = self._cut(TimedOut(f"the script's {limit_s:g} s are over", hint="what it began goes on"))
        except diagnostics.Stopped as stopped:
            code = self._cut(_ended(stopped.exit))
        except KeyboardInterrupt as interrupt:
            code = self._cut(_ended(ExitCode.INT, str(interrupt)))
        except BrokenPipeError:
            raise
        except Exception:
            # A fault of ours leaves the process with 1, as a failure does: the way out is owed all the same.
            if self.on_failure is not None:
                self._way_out(self.on_failure, ExitCode.FAILED)
            raise
        if code in FIRES_ON and self.on_failure is not None:
            self._way_out(self.on_failure, code)
        return Outcome.printed(code)

    def _lines(self) -> ExitCode:
        stops = True
        for line in self.script.lines:
            self.current = line
            if line.word in ("set", "on-failure"):
                if line.word == "set":
                    stops = stops_at_failure(line)
                else:
                    self.on_failure = None if line.rest == "none" else line
                self._event(line, _SKIPPED, None)
                continue
            exit_code = self._play(line)
            if exit_code != ExitCode.OK and stops:
                return exit_code
        return ExitCode.OK

    def _play(self, line: Line) -> ExitCode:
        """Do one line and say how it went. An error is the line's result, not the script's end."""
        self.began = time.monotonic()
        self._tell(f"line {line.number}: {line.text}")
        try:
            outcome = self._do(line)
        except AirbossError as error:
            self._event(line, None, error)
            return error.exit
        self._learn(outcome)
        self._event(line, outcome, outcome.error)
        return outcome.exit

    def _learn(self, outcome: Outcome) -> None:
        """What later lines may ask of this one: `$LAST`, `$OUTCOME`, and whether there is anything to wait for."""
        if outcome.ref:
            self.values[LAST] = outcome.ref
        item = dict(outcome.items[0]) if outcome.items else {}
        if outcome.kind == "VerbResult":
            if not item["changed"]:
                self.unchanged.add(outcome.ref)
            if self.context.options.dry_run and item["verb"] in ("deploy", "pipeline.run"):
                self.unmade.add(LAST)
        rollout = item.get("object", item)
        if "to_release" in rollout and "state" in rollout and outcome.kind in ("VerbResult", "Rollout"):
            self.values[OUTCOME] = came_to(rollout)

    def _cut(self, error: AirbossError) -> ExitCode:
        """The line that was at work ends in `error`, whatever `set +e` says."""
        # Ctrl-C ends the reader of a pipe too: what cannot be printed must not keep the way out from running.
        with suppress(BrokenPipeError):
            self._event(self.current or Line(0, "", "echo", ""), None, error)
        return error.exit

    def _way_out(self, line: Line, code: ExitCode) -> None:
        """Play the `on-failure` line: once, within its own --timeout or HANDLER_S, and held clear of the next signal."""
        self._tell(f"exit {int(code)}; on-failure: {line.rest}")
        limit_s = HANDLER_S
        try:
            limit_s = self.script.parse(line, self.values).options.timeout_s or HANDLER_S
            with shielded(self._tell, "on-failure"), time_limit(limit_s):
                self._play(line)
        except AirbossError as error:
            self._event(line, None, error)
        except OutOfTime:
            self._event(line, None, TimedOut(f"on-failure was given {limit_s:g} s", hint="what it began goes on"))
        except (diagnostics.Stopped, KeyboardInterrupt):
            self._event(line, None, OperationFailed("on-failure was ended by a second signal"))

    def _do(self, line: Line) -> Outcome:
        if variables_in(line.text) & self.unmade:
            return _SKIPPED
        if line.word == "let":
            return self._let(line)
        if line.word == "echo":
            return Outcome(
                "Echo",
                [{"text": (text := expand(_unquoted(line.rest), self.values))}],
                blocks=(Text(text),),
                names=(text,),
            )
        if self.context.options.dry_run and line.word in ("wait", "expect", "sleep"):
            return _SKIPPED
        if line.word == "wait":
            return self._wait(line)
        if line.word == "expect":
            return self._expect(line)
        if line.word == "sleep":
            from console.commands.grammar import duration

            time.sleep(duration(expand(line.rest, self.values)))
            return _SKIPPED
        parsed = self.script.parse(line, self.values)
        return perform(parsed, replace_options(self.context, parsed.options))

    def _let(self, line: Line) -> Outcome:
        name, value = assignment(line)
        if name in self.script.settings:
            return _SKIPPED
        if command := assigned_command(line):
            return self._let_command(line, name, *command)
        if value.startswith("{"):
            if self.context.options.dry_run:
                self.values[name] = "unknown"
                return _SKIPPED
            found = lookup(self.context.get)(field_path(value, self.values))
            if found is None:
                raise OperationFailed(f"{value} is unknown", hint="`expect` a value that is there first")
            self.values[name] = str(found)
        else:
            self.values[name] = expand(value, self.values)
        return Outcome("Variable", [{"name": name, "value": self.values[name]}])

    def _let_command(self, line: Line, name: str, command: str, picked: str) -> Outcome:
        """Do the command; the variable is the reference or the name of what it made or found first, or a field of it."""
        parsed = self.script.parse(as_verb(line, command), self.values)
        outcome = perform(parsed, replace_options(self.context, parsed.options))
        if self.context.options.dry_run and outcome.kind == "VerbResult":
            self.unmade.add(name)
        found: Any = outcome.ref or next(iter(outcome.names), None)
        if picked:
            found = expressions.dig(dict(outcome.items[0]), picked, command) if outcome.items else None
        if found is None:
            raise OperationFailed(f"`{command}` found nothing for ${name}", hint="`expect` what must be there first")
        self.values[name] = str(found)
        return outcome

    def _wait(self, line: Line) -> Outcome:
        from console.commands.waiting import wait_for

        try:
            wanted = self.script.wait(line, self.values)
        except UsageError:
            # `deploy` of what is live already begins no rollout, and answers with the service.
            if still := self.unchanged.intersection(expand(line.rest, self.values).split()):
                return Outcome("Unchanged", [{"ref": ref} for ref in still], names=tuple(still))
            raise
        end = wait_for(self.context.get, wanted.ref, wanted.condition, wanted.timeout_s, say=self._tell)
        kind = wanted.condition.kind.capitalize()
        return Outcome(
            kind, [end.item], names=(wanted.ref,), error=end.error, exit=end.error.exit if end.error else ExitCode.OK
        )

    def _expect(self, line: Line) -> Outcome:
        text = expand(line.rest, self.values)
        expr = expressions.parse(text)
        look = lookup(self.context.get)
        if not expressions.evaluate(expr, look):
            raise GateRefused(f"it does not hold that {text}: {expressions.shown(expr, look)}", code="expect")
        return Outcome("Expectation", [{"expression": text, "values": {p: look(p) for p in expressions.paths(expr)}}])

    def _event(self, line: Line, outcome: Outcome | None, error: AirbossError | None) -> None:
        output = self.context.output
        code = error.exit if error else outcome.exit if outcome else ExitCode.OK
        took_s = time.monotonic() - self.began if line.word not in ("set", "on-failure") or error else 0.0
        self.cases.append(Case(_name(line), took_s, error, code))
        if self.context.is_json:
            body: dict[str, Any] = {"kind": outcome.kind, "items": envelope(outcome)["items"]} if outcome else {}
            if error is not None:
                body["error"] = error.as_dict()
            if (word := self.values.get(OUTCOME, "none")) != "none":
                body["outcome"] = word
            output.event("LINE", line=line.number, command=line.text, ok=code == 0, exit=int(code), **body)
            return
        if outcome is not None:
            output.show(outcome)
            for note in outcome.notes:
                self._tell(note)
        if error is not None:
            diagnostics.report(_at_line(error, line), as_json=False)

    def _tell(self, text: str) -> None:
        if not self.context.is_json:
            diagnostics.note(text)


def replace_options(context: Context, options: Any) -> Context:
    """A context for one line: the script's client and output, the line's options, and no questions."""
    from console.commands.context import Context as Fresh

    inner = Fresh(replace(options, output=context.options.output), context.output, may_ask=False)
    if not options.workspace or options.workspace == context.options.workspace:
        inner.__dict__ |= {
            name: value for name, value in context.__dict__.items() if name in ("root", "paths", "config", "client")
        }
    return inner


def _at_line(error: AirbossError, line: Line) -> AirbossError:
    told = type(error)(f"line {line.number}: {error.message}", hint=error.hint, code=error.code)
    told.exit = error.exit
    return told


def _ended(exit: ExitCode, left: str = "") -> AirbossError:
    """What a signal that ends the script is to the line that was at work."""
    error = AirbossError(f"the script was ended by SIG{exit.name}" + (f"; {left}" if left else ""), code="ended")
    error.exit = exit
    return error


def _name(line: Line) -> str:
    return f"line {line.number}: {line.text}"


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
