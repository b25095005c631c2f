"""Running a checked script: one line after the other, each with its event, until the end or the line it stops at."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands import expressions
from console.commands.objects import lookup
from console.commands.perform import perform
from console.output import Outcome, Text, envelope
from console.script import LAST, Line, Script, assignment, expand, field_path, stops_at_failure
from state.words import AirbossError, ExitCode, GateRefused, OperationFailed

if TYPE_CHECKING:
    from console.commands.context import Context

_SKIPPED = Outcome("Skipped", [])


@dataclass
class Runner:
    """One run of a script."""

    script: Script
    context: Context
    values: dict[str, str] = field(default_factory=dict)

    def run(self) -> Outcome:
        """Play the lines. The exit is that of the line it stopped at, 0 when it reached the end."""
        self.values |= self.script.settings
        stops, on_failure = True, None
        for line in self.script.lines:
            if line.word == "set":
                stops = stops_at_failure(line)
                self._event(line, _SKIPPED, None)
                continue
            if line.word == "on-failure":
                on_failure = None if line.rest == "none" else line
                self._event(line, _SKIPPED, None)
                continue
            exit_code = self._play(line)
            if exit_code == ExitCode.OK or not stops:
                continue
            if on_failure is not None:
                self._tell(f"line {line.number} failed; on-failure: {on_failure.rest}")
                self._play(on_failure)
            return Outcome.printed(exit_code)
        return Outcome.printed()

    def _play(self, line: Line) -> ExitCode:
        """Do one line and say how it went. An error is the line's result, not the script's end."""
        self._tell(f"line {line.number}: {line.text}")
        try:
            outcome = self._do(line)
        except AirbossError as error:
            self._event(line, None, error)
            return error.exit
        self._event(line, outcome, outcome.error)
        if outcome.ref:
            self.values[LAST] = outcome.ref
        return outcome.exit

    def _do(self, line: Line) -> Outcome:
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

    def _wait(self, line: Line) -> Outcome:
        from console.commands.waiting import wait_for

        wanted = self.script.wait(line, self.values)
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
        if self.context.is_json:
            body: dict[str, Any] = {"kind": outcome.kind, "items": envelope(outcome)["items"]} if outcome else {}
            if error is not None:
                body["error"] = error.as_dict()
            code = int(error.exit if error else outcome.exit if outcome else 0)
            output.event("LINE", line=line.number, command=line.text, ok=code == 0, exit=code, **body)
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
    return type(error)(f"line {line.number}: {error.message}", hint=error.hint, code=error.code)


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
