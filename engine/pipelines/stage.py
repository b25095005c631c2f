"""What a stage function takes and returns. Standard library only: every stage, ours or a user's, imports it.

A stage is `run(ctx: StageContext) -> StageResult`. It writes its outputs below `ctx.out_dir`, which is its own until
the runner moves it into the cache, reads its inputs from `ctx.inputs`, and neither knows nor asks where it runs.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.local.child import write_json

RESULT_NAME = "result.json"
PROGRESS_NAME = "progress.json"
ERROR_NAME = "error.json"
RESERVED_NAMES = frozenset({RESULT_NAME, PROGRESS_NAME, ERROR_NAME})
"""Files of `out_dir` that speak of the stage's execution. They are no outputs: what follows from a stage is decided by
its other files, so a stage that needs a number of another must find it in one of those."""

ADOPTED = "adopted"
"""The fact of a result that nothing was run for: who had made the outputs before."""

_OPS = ("<=", "<", ">=", ">")


@dataclass(frozen=True, slots=True)
class StageContext:
    """All a stage is told.

    `inputs` maps a dependency's name to the directory of its outputs (read them, never write there). `context` has
    the run's surroundings: pipeline, service, workspace, release_id, baseline, actor, created_at, git_commit.
    """

    run_id: str
    stage: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    out_dir: Path
    registry_socket: str | None
    context: Mapping[str, Any]
    forced: bool = False
    """Somebody asked for the stage to run whatever is there already."""
    executor: Mapping[str, Any] = field(default_factory=dict)
    """Where its commands run; nothing for this host."""
    key: str = ""
    attempt: int = 1
    timeout_s: float = 3600.0

    def progress(self, **facts: float | str) -> None:
        """Say how far the stage is: rewrites `out_dir/progress.json` atomically and prints one log line."""
        clean = {name: _plain(value) for name, value in facts.items()}
        write_json(self.out_dir / PROGRESS_NAME, {**clean, "at": time.time()})
        say(stage=self.stage, **clean)


@dataclass(frozen=True, slots=True)
class Gate:
    """A check on a metric: `value op limit`. A blocking gate that does not pass fails the stage; a warning is recorded."""

    name: str
    value: float | None
    limit: float
    op: str
    blocking: bool = True

    def __post_init__(self) -> None:
        if self.op not in _OPS:
            raise ValueError(f"gate {self.name}: op {self.op!r} must be one of {', '.join(_OPS)}")

    @property
    def passed(self) -> bool:
        """Whether the check holds. A missing, NaN or infinite value or limit never passes."""
        if self.value is None or not math.isfinite(self.value) or not math.isfinite(self.limit):
            return False
        match self.op:
            case "<=":
                return self.value <= self.limit
            case "<":
                return self.value < self.limit
            case ">=":
                return self.value >= self.limit
            case _:
                return self.value > self.limit

    @property
    def sentence(self) -> str:
        """What the gate found, for a person."""
        shown = "missing" if self.value is None else f"{self.value:g}"
        return f"{self.name} = {shown}, must be {self.op} {self.limit:g}"

    def to_json(self) -> dict[str, Any]:
        """The gate as plain JSON; a value that is no number becomes null."""
        return {
            "name": self.name,
            "value": _plain(self.value),
            "limit": _plain(self.limit),
            "op": self.op,
            "blocking": self.blocking,
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage found. `facts` is what the engine records once the run has made its release (see `recorder`):

    `dataset` {sha256, name, source, rows, chars, redactions?, path? (below out_dir)} · `prompt` {name, version?, body} ·
    `model` {name, version} · `release` {digest, seed?, training?, serving?, metrics?, tokenizer_sha256?,
    context_length?, parent_id?, weights_from? {release_id}}, with the bundle in `out_dir/bundle`.
    """

    metrics: Mapping[str, float]
    gates: Sequence[Gate] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refused_by(self) -> tuple[Gate, ...]:
        """The blocking gates that did not pass."""
        return tuple(gate for gate in self.gates if gate.blocking and not gate.passed)

    def to_json(self) -> dict[str, Any]:
        """The result as plain JSON. A metric that is no finite number becomes null, so that it reads as missing."""
        return {
            "metrics": {name: _plain(value) for name, value in self.metrics.items()},
            "gates": [gate.to_json() for gate in self.gates],
            "facts": dict(self.facts),
        }


def say(**facts: object) -> None:
    """One JSON line into the stage's log."""
    line = json.dumps({"at": round(time.time(), 3), **facts}, default=str, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: numbers of tensors and arrays become Python's, non-finite ones null."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
