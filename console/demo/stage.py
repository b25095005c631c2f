"""What every act of the demo uses: the client with patience, progress, waiting for runs and rollouts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from console.client import EngineClient
from console.demo.load import Load, Requests
from console.demo.workspace import ENV, RPS, SERVICE
from engine.api.schemas import RolloutView, RunView, VerbRequest, VerbResult
from state.paths import Paths
from state.words import AirbossError, OperationFailed, RolloutState, RunState, TimedOut, Unreachable

T = TypeVar("T")

POLL_S = 0.1
ENGINE_PATIENCE_S = 120.0
"""How long the demo waits for an engine that went away: somebody may be trying `kill -9` on it."""
RUN_S = 900.0
ROLLOUT_S = 420.0
ENOUGH_TO_SEE = 30
"""Canary requests at which a step's evidence is worth a picture."""


Moment = Callable[[str, str], None]
"""Called with a name and a reference when there is something to see: `training`, `canary`, `rolled_back`, `end`."""


def nothing_special(name: str, ref: str) -> None:
    """For who does not watch the moments."""


class ActFailed(OperationFailed):
    """An act did not do what it should."""

    code = "act_failed"


@dataclass
class Demo:
    """The stage: the engine's client, the load, and what is told on the way."""

    paths: Paths
    client: EngineClient
    began: float = field(default_factory=time.monotonic)
    rps: float = RPS
    moment: Moment = nothing_special
    requests: Requests = field(default_factory=Requests)
    load: Load | None = None
    act: str = ""
    loads: int = 0
    _said: str = ""

    def say(self, message: str) -> None:
        """One line of progress, on stderr and in the console's banner; the same line is not said twice."""
        if message == self._said:
            return
        self._said = message
        sys.stderr.write(f"[{time.monotonic() - self.began:6.1f} s] {self.act}: {message}\n")
        sys.stderr.flush()
        try:
            self.client.tell_demo({"act": self.act, "message": message, "elapsed_s": time.monotonic() - self.began})
        except AirbossError:
            return

    def patiently(self, ask: Callable[[], T]) -> T:
        """`ask`, again and again while the engine is away. Raises Unreachable when it stays away."""
        deadline = time.monotonic() + ENGINE_PATIENCE_S
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
                self.say(f"the engine does not answer; `airboss --workspace {self.paths.root} up -d` brings it back")
                time.sleep(1.0)

    def verb(self, verb: str, ref: str, *, reason: str = "demo", **args: Any) -> VerbResult:
        """Ask for a verb as a person would, confirmed."""
        wish = VerbRequest(verb=verb, ref=ref, args=args, reason=reason, yes=True, confirm_name=SERVICE)
        return self.patiently(lambda: self.client.verb(wish))

    def start_load(self) -> None:
        """Let the users come."""
        url = self.patiently(self.client.status).gateway
        self.loads += 1
        self.load = Load(url, SERVICE, ENV, self.rps, self.paths.logs / f"load-{self.loads}.jsonl", seed=self.loads)

    def stop_load(self) -> None:
        """Send the users home and count what they met."""
        if self.load is not None:
            load, self.load = self.load, None
            self.requests.add(load.stop())

    def run_pipeline(self, pipeline: str, **sets: Any) -> RunView:
        """Run a pipeline to its end, telling each stage. Raises ActFailed when it does not succeed."""
        started = self.verb("pipeline.run", f"pipeline/{pipeline}", set=sets)
        run_id = started.ref.partition("/")[2]
        deadline = time.monotonic() + RUN_S
        while True:
            run = self.patiently(lambda: self.client.run(run_id))
            self.say(_stage_line(run))
            if _is_half_trained(run):
                self.moment("training", f"run/{run_id}")
            if RunState(run.state).is_over:
                break
            if time.monotonic() > deadline:
                raise TimedOut(f"{run_id} was not over within {RUN_S:.0f} s")
            time.sleep(POLL_S)
        if not RunState(run.state).is_good or run.release_id is None:
            raise ActFailed(f"{run_id} ended {run.state}: {run.error}", hint=f"airboss run show {run_id}")
        return run

    def follow(self, rollout_id: str, until: Callable[[RolloutView], bool]) -> RolloutView:
        """Follow a rollout until `until`, telling what it does."""
        deadline = time.monotonic() + ROLLOUT_S
        while True:
            rollout = self.patiently(lambda: self.client.rollout(rollout_id))
            self.say(_rollout_line(rollout))
            if _has_evidence(rollout):
                self.moment("canary", f"rollout/{rollout_id}")
            if until(rollout):
                return rollout
            if time.monotonic() > deadline:
                raise TimedOut(f"{rollout_id} stands at {rollout.state} after {ROLLOUT_S:.0f} s: {rollout.message}")
            time.sleep(POLL_S)


def _has_evidence(rollout: RolloutView) -> bool:
    is_half_way = rollout.state == RolloutState.STEP_BAKING and rollout.step == 0
    return is_half_way and rollout.canary is not None and rollout.canary.requests >= ENOUGH_TO_SEE


def _is_half_trained(run: RunView) -> bool:
    facts = next((s.progress for s in run.stages if s.name == "train" and s.state == RunState.RUNNING), {})
    return bool(facts.get("steps")) and int(facts.get("step", 0)) * 2 >= int(facts["steps"])


def is_standing(rollout: RolloutView) -> bool:
    """It has ended, or waits for a person."""
    state = RolloutState(rollout.state)
    return state.is_terminal or state in (RolloutState.PAUSED, RolloutState.AWAITING_PROMOTION, RolloutState.STUCK)


def _stage_line(run: RunView) -> str:
    now = next((s for s in run.stages if s.state == RunState.RUNNING), None)
    if now is None:
        return f"{run.id} {run.state}" + (f": {run.error}" if run.error else "")
    words = [f"{run.id} {now.name}"]
    facts = now.progress
    if "step" in facts and "steps" in facts:
        words.append(f"step {int(facts['step']) // 50 * 50}/{facts['steps']}")
    return " ".join(words)


def _rollout_line(rollout: RolloutView) -> str:
    state = rollout.state.replace("_", " ")
    if rollout.state == RolloutState.STEP_BAKING:
        verdict = rollout.verdict
        if verdict is None or verdict.step != rollout.step:
            return f"{rollout.id} at {rollout.weight} %"
        return f"{rollout.id} at {rollout.weight} %: {verdict.kind}"
    return f"{rollout.id} {state}: {rollout.message}"


def plain_rollout(rollout: RolloutView) -> dict[str, Any]:
    """A rollout as the demo's document has it: ids, timings, every step's verdict with its reason."""
    return {
        "id": rollout.id,
        "from_release": rollout.from_release,
        "to_release": rollout.to_release,
        "state": rollout.state,
        "message": rollout.message,
        "registry_sync": rollout.registry_sync,
        "seconds": round((rollout.finished_at or time.time()) - rollout.created_at, 2),
        "steps": [
            {
                "kind": step.kind,
                "weight": step.weight,
                "state": step.state,
                "seconds": round(step.elapsed_s, 2),
                "verdict": step.verdict.kind if step.verdict else None,
                "sentence": step.verdict.sentence if step.verdict else None,
            }
            for step in rollout.steps
        ],
    }
