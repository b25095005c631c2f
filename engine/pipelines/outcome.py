"""What became of a stage's child, and whether to try again. Decisions are pure; `look` reads what the child left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.local.spawn import ChildExit
from engine.pipelines.cache import OUT, Manifest, OutputsChanged, Place
from engine.pipelines.stage import ADOPTED, ERROR_NAME, RESULT_NAME
from state.words import ExitCode, RunState


@dataclass(frozen=True, slots=True)
class Left:
    """What a child left behind: outputs committed under the key, by it or another; its own result or error aside."""

    manifest: Manifest | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended. `retryable` is true for troubles of the infrastructure only."""

    state: RunState
    error: str = ""
    retryable: bool = False
    result: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""

    @property
    def metrics(self) -> dict[str, Any]:
        """The stage's metrics."""
        return dict(self.result.get("metrics", {}))

    @property
    def gates(self) -> list[dict[str, Any]]:
        """The stage's gates with their values."""
        return list(self.result.get("gates", ()))

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage asks the engine to record."""
        return dict(self.result.get("facts", {}))


def look(place: Place, aside: Path, key: str) -> Left:
    """Read what is kept in `place` under `key`, and what the child left in `aside`."""
    result, error = _json(aside / OUT / RESULT_NAME), _json(aside / OUT / ERROR_NAME)
    try:
        manifest = Manifest.read(place.entry)
    except (FileNotFoundError, OutputsChanged):
        return Left(result=result, error=error)
    if manifest.key != key:
        return Left(result=result, error=error)
    return Left(manifest, place.result(), result, error)


def judge(exit_: ChildExit, left: Left, *, spawn_id: str, timed_out: bool, timeout_s: float) -> Outcome:
    """What the attempt `spawn_id` came to.

    Committed outputs decide, whatever the process did after; then the clock; then what the process said of itself. No
    word from it means that something killed it, which is the infrastructure's trouble.
    """
    if left.manifest is not None and left.manifest.spawn_id == spawn_id:
        state = RunState.CACHED if left.kept.get("facts", {}).get(ADOPTED) else RunState.SUCCEEDED
        return Outcome(state, result=left.kept, output=left.manifest.digest)
    if timed_out:
        return Outcome(RunState.TIMED_OUT, f"not done after {timeout_s:g} s; its whole process group was killed")
    if exit_.code == ExitCode.OK and left.manifest is not None:
        return Outcome(RunState.CACHED, result=left.kept, output=left.manifest.digest)
    if exit_.code == ExitCode.GATE:
        return Outcome(RunState.GATE_FAILED, _refusal(left), result=left.result)
    if exit_.code is None:
        return Outcome(RunState.FAILED, f"its process was {exit_.cause}", retryable=True)
    if left.error:
        return Outcome(RunState.FAILED, _sentence(left.error), retryable=bool(left.error.get("retryable")))
    if exit_.code == ExitCode.OK:
        return Outcome(RunState.FAILED, "its process left without keeping outputs; see its log")
    # A Python that cannot even start (memory, a missing library) leaves a code and no word.
    return Outcome(RunState.FAILED, f"its process ended with {exit_.code}: {exit_.cause}", retryable=exit_.code > 128)


def backoff_s(first_s: float, tries: int) -> float:
    """How long to wait before the next try after `tries` failed ones: doubling, at most a minute."""
    return float(min(first_s * 2 ** (tries - 1), 60.0))


def _refusal(left: Left) -> str:
    failed = [gate for gate in left.result.get("gates", ()) if gate["blocking"] and not gate["passed"]]
    said = [f"{g['name']} = {_number(g['value'])}, must be {g['op']} {_number(g['limit'])}" for g in failed]
    return "; ".join(said) or _sentence(left.error)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"


def _sentence(error: Mapping[str, Any]) -> str:
    hint = error.get("hint")
    return str(error.get("message", "no reason given")) + (f"; {hint}" if hint else "")


def _json(path: Path) -> Mapping[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
