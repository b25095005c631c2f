"""What a wait waits for, and where an object stands towards it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.commands import expressions
from console.commands.tables import rollout_state
from state.words import (
    TERMINAL_STATES,
    AirbossError,
    GateRefused,
    OperationFailed,
    RolloutState,
    RunState,
    UsageError,
    VerdictKind,
    WaitingForHuman,
)

GOOD_END = "done"
_ALERT_WORDS = ("active", "resolved", "acked")


@dataclass(frozen=True, slots=True)
class Standing:
    """`is_met`: over, and well. `error`: over, and this is why not. `is_gate`: it counts once it has stood a moment."""

    is_met: bool = False
    error: AirbossError | None = None
    is_gate: bool = False


GOING = Standing()
MET = Standing(is_met=True)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one kind of object: a word, a step, or an expression over its fields."""

    kind: str
    text: str
    goes_back: bool = False
    """`done` of a rollback or an abort: the end it should come to is the way back."""

    @classmethod
    def parse(cls, text: str, kind: str, *, goes_back: bool = False) -> Condition:
        """The condition that `text` is for a `kind`. Raises UsageError with what is allowed."""
        words = {
            "rollout": ("done", "ended", *(s.value for s in RolloutState)),
            "run": ("done", "ended", *(s.value for s in RunState)),
            "alert": _ALERT_WORDS,
            "service": (),
        }.get(kind)
        if words is None:
            raise UsageError(
                f"a {kind} cannot be waited for", hint="wait for a rollout, a run, an alert or service/NAME@ENV"
            )
        if text in words or (kind == "rollout" and re.fullmatch(r"step=\d+", text)):
            return cls(kind, text, goes_back)
        if expressions.is_expression(text):
            expressions.parse(_doubled(text), bare_fields=True)
            return cls(kind, text)
        allowed = ", ".join(
            (*words, *(("step=N",) if kind == "rollout" else ()), "or an expression such as 'weight>=25'")
        )
        raise UsageError(f"{text!r} is nothing that a {kind} comes to", hint=f"allowed: {allowed}")

    def standing(self, item: Mapping[str, Any]) -> Standing:
        """Where `item` stands towards it."""
        if self.kind == "rollout":
            return self._of_rollout(item)
        if self.kind == "run":
            return self._of_run(item)
        if self.kind == "alert" and self.text in _ALERT_WORDS:
            return MET if self.text == item["state"] or (self.text == "acked" and item["acked_by"]) else GOING
        return MET if self._holds(item) else GOING

    def _holds(self, item: Mapping[str, Any]) -> bool:
        expr = expressions.parse(_doubled(self.text), bare_fields=True)
        return expressions.evaluate(expr, lambda path: expressions.dig(dict(item), path, self.kind))

    def _of_rollout(self, item: Mapping[str, Any]) -> Standing:
        state = RolloutState(item["state"])
        if self._rollout_met(item, state):
            return MET
        name = f"rollout/{item['id']}"
        if state in TERMINAL_STATES:
            return Standing(error=_ended_badly(item, state, name))
        if self.goes_back:
            stuck = "its way back is stuck"
            return Standing(error=_waiting(item, name, stuck), is_gate=True) if state is RolloutState.STUCK else GOING
        why = {
            RolloutState.PAUSED: "it is paused",
            RolloutState.AWAITING_APPROVAL: "it waits for an approval",
            RolloutState.AWAITING_PROMOTION: "it waits to be promoted",
            RolloutState.STUCK: "it is stuck",
        }.get(state)
        return Standing(error=_waiting(item, name, why), is_gate=True) if why else GOING

    def _rollout_met(self, item: Mapping[str, Any], state: RolloutState) -> bool:
        if self.text == "ended":
            return state in TERMINAL_STATES
        if self.text == GOOD_END:
            return state in TERMINAL_STATES if self.goes_back else state is RolloutState.COMPLETED
        if self.text.startswith("step="):
            wanted = int(self.text.removeprefix("step="))
            goes_forward = state not in (RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.CANCELLED)
            reached = int(item["step"]) + 1 >= wanted and state not in (RolloutState.PLANNED, RolloutState.PREPARING)
            return goes_forward and (reached or state is RolloutState.COMPLETED)
        if expressions.is_expression(self.text):
            return self._holds(item)
        return state.value == self.text

    def _of_run(self, item: Mapping[str, Any]) -> Standing:
        state = RunState(item["state"])
        if self.text == "ended":
            return MET if state.is_over else GOING
        if self.text == GOOD_END:
            if state.is_good:
                return MET
        elif expressions.is_expression(self.text):
            if self._holds(item):
                return MET
        elif state.value == self.text:
            return MET
        if not state.is_over:
            return GOING
        name = f"run/{item['id']}"
        if state is RunState.GATE_FAILED:
            return Standing(
                error=GateRefused(
                    f"{name}: a gate said no{_because(item.get('error'))}",
                    hint=f"`airboss run show {item['id']}` has the gates",
                )
            )
        return Standing(
            error=OperationFailed(
                f"{name} ended {state.value}{_because(item.get('error'))}",
                hint=f"`airboss run logs {item['id']}` says why",
            )
        )


def outcome(item: Mapping[str, Any]) -> str:
    """What a rollout has come to, in a word: its last state once it is over, else whether users reach the new release."""
    state = RolloutState(item["state"])
    if state.is_terminal:
        return state.value
    return "still_live" if int(item.get("weight") or 0) > 0 else "not_live"


def _ended_badly(item: Mapping[str, Any], state: RolloutState, name: str) -> AirbossError:
    verdict = item.get("verdict") or {}
    said = _because(verdict.get("sentence") if verdict.get("kind") == VerdictKind.FAIL else item.get("message"))
    text = f"{name} ended {state.value}{said}"
    hint = f"`airboss rollout show {item['id']}` has the evidence"
    if state is RolloutState.ROLLED_BACK and verdict.get("kind") == VerdictKind.FAIL:
        return GateRefused(text, hint=hint, code=state.value)
    return OperationFailed(text, hint=hint, code=state.value)


def _waiting(item: Mapping[str, Any], name: str, why: str) -> WaitingForHuman:
    reason = f" ({item['pause_reason']})" if item.get("pause_reason") else ""
    return WaitingForHuman(
        f"{name}: {why}{reason}{_because(item.get('message'))}",
        hint=f"`airboss rollout show {item['id']}`; then promote, resume, approve or abort it",
    )


def _because(text: object) -> str:
    return f": {text}" if text else ""


def _doubled(text: str) -> str:
    """`weight=25` reads as `weight == 25`: hands write it so."""
    return re.sub(r"(?<![=!<>])=(?!=)", "==", text)


def progress_line(kind: str, item: Mapping[str, Any]) -> str:
    """One line of where it stands, the same as long as nothing changed that a person waits for."""
    if kind == "rollout":
        steps = item.get("steps") or ()
        verdict = (item.get("verdict") or {}).get("kind")
        line = f"rollout/{item['id']}: {rollout_state(item)}, step {int(item['step']) + 1} of {len(steps)}, weight {item['weight']} %"
        return line + (f", {verdict}" if verdict else "") + (f": {item['message']}" if item.get("message") else "")
    if kind == "run":
        current = next((s for s in item.get("stages") or () if s["state"] == "running"), None)
        done = sum(RunState(s["state"]).is_good for s in item.get("stages") or ())
        return f"run/{item['id']}: {item['state']}, {done} of {len(item.get('stages') or ())} stages" + (
            f", {current['name']}" if current else ""
        )
    if kind == "alert":
        return f"alert/{item['id']}: {item['state']}"
    return f"service/{item['service']}@{item['env']}: {item['phase']}"
