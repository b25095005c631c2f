"""The four acts: make, launch, advance, recover. Each returns what happened and raises when it did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from console.demo.stage import POLL_S, ActFailed, Demo, is_standing, plain_rollout
from console.demo.workspace import ENV, PIPELINE, SERVICE
from engine.api.schemas import RunView
from state.labels import model_label
from state.words import PauseReason, RolloutState

FAULT = {"latency_ms": 2000, "error_rate": 0.3, "seed": 7}
ALIAS_S = 60.0


@dataclass(frozen=True, slots=True)
class Script:
    """How the acts are played: the steps of the two trainings, with or without the fault, with or without evidence."""

    first_steps: int = 300
    second_steps: int = 700
    fault: bool = True
    cut_evidence: bool = False


@dataclass
class Play:
    """What one act leaves for the next."""

    script: Script
    first: str = ""
    second: str = ""
    third: str = ""


def make(demo: Demo, play: Play) -> dict[str, Any]:
    """Act 1: from text to a registered release."""
    run = demo.run_pipeline(PIPELINE, **{"train.steps": play.script.first_steps})
    play.first = run.release_id or ""
    return {"run": _plain_run(run), "release": _plain_release(demo, play.first)}


def launch(demo: Demo, play: Play) -> dict[str, Any]:
    """Act 2: the first release becomes stable, checked by a generated token and by its first users."""
    started = demo.verb("deploy", f"service/{SERVICE}", env=ENV, release=play.first)
    rollout_id = started.ref.partition("/")[2]
    demo.follow(rollout_id, lambda r: r.state in (RolloutState.VERIFYING, RolloutState.COMPLETED) or is_standing(r))
    demo.start_load()
    try:
        done = demo.follow(rollout_id, is_standing)
    finally:
        demo.stop_load()
    if play.script.cut_evidence:
        _demand(done.pause_reason == PauseReason.NO_DATA, f"without evidence {rollout_id} is {done.state}, not paused")
        demo.say("paused for want of data, as it should; a person takes it on")
        demo.verb("rollout.promote", f"rollout/{rollout_id}", reason="the first release; no evidence can be had")
        done = demo.follow(rollout_id, is_standing)
    _demand(done.state == RolloutState.COMPLETED, f"{rollout_id} ended {done.state}: {done.message}")
    status = demo.patiently(demo.client.status)
    return {"rollout": plain_rollout(done), "gateway": status.gateway, "stable": play.first,
            "aliases": _aliases(demo, rollout_id)}  # fmt: skip


def advance(demo: Demo, play: Play) -> dict[str, Any]:
    """Act 3: a better release, by canary, judged at every step."""
    run = demo.run_pipeline(PIPELINE, **{"train.steps": play.script.second_steps})
    play.second = run.release_id or ""
    first, second = _plain_release(demo, play.first), _plain_release(demo, play.second)
    better = _bits(second) < _bits(first)
    demo.start_load()
    started = demo.verb("deploy", f"service/{SERVICE}", env=ENV, release=play.second)
    rollout_id = started.ref.partition("/")[2]
    done = demo.follow(rollout_id, is_standing)
    facts = {"run": _plain_run(run), "release": second, "is_better": better, "rollout": plain_rollout(done)}
    if play.script.cut_evidence:
        paused = done.state == RolloutState.PAUSED and done.pause_reason == PauseReason.NO_DATA
        _demand(paused, f"without evidence {rollout_id} is {done.state} ({done.pause_reason}), not paused")
        return facts
    _demand(done.state == RolloutState.COMPLETED, f"{rollout_id} ended {done.state}: {done.message}")
    _demand(
        better, f"{play.second} is not better than {play.first}: {_bits(second):.3f} against {_bits(first):.3f} bits"
    )
    return {**facts, "aliases": _aliases(demo, rollout_id)}


def recover(demo: Demo, play: Play) -> dict[str, Any]:
    """Act 4: the same weights, made to misbehave; the judge must find it and the engine bring it back.

    Without the fault the same release must go through.
    """
    serving = {"fault": FAULT} if play.script.fault else {}
    demo.stop_load()
    run = demo.run_pipeline(PIPELINE, **{"release.weights_from": play.second, "release.serving": serving})
    play.third = run.release_id or ""
    if demo.load is None:
        demo.start_load()
    started = demo.verb("deploy", f"service/{SERVICE}", env=ENV, release=play.third)
    rollout_id = started.ref.partition("/")[2]
    began = time.monotonic()
    done = demo.follow(rollout_id, is_standing)
    expected = RolloutState.ROLLED_BACK if play.script.fault else RolloutState.COMPLETED
    facts = {
        "run": _plain_run(run),
        "release": _plain_release(demo, play.third),
        "fault": FAULT if play.script.fault else None,
        "rollout": plain_rollout(done),
        "seconds_to_verdict": round(time.monotonic() - began, 2),
    }
    _demand(done.state == expected, f"{rollout_id} ended {done.state}, not {expected}: {done.message}")
    demo.moment("rolled_back", f"rollout/{rollout_id}")
    live = demo.patiently(demo.client.fleet)[0].release_id
    wanted = play.second if play.script.fault else play.third
    _demand(live == wanted, f"{live} is live, not {wanted}")
    return {**facts, "live": live, "aliases": _aliases(demo, rollout_id)}


ACTS: tuple[tuple[str, Callable[[Demo, Play], dict[str, Any]]], ...] = (
    ("make", make),
    ("launch", launch),
    ("advance", advance),
    ("recover", recover),
)


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ActFailed(otherwise)


def _plain_run(run: RunView) -> dict[str, Any]:
    return {
        "id": run.id,
        "state": run.state,
        "seconds": round((run.finished_at or run.created_at) - run.created_at, 2),
        "stages": {
            s.name: {"state": s.state, "seconds": round((s.finished_at or 0) - (s.started_at or 0), 2),
                     "gates": {g.name: g.passed for g in s.gates}}
            for s in run.stages
        },
    }  # fmt: skip


def _plain_release(demo: Demo, release_id: str) -> dict[str, Any]:
    release = demo.patiently(lambda: demo.client.release(release_id))
    return {
        "id": release.id,
        "digest": release.digest,
        "model": model_label(release.model_name, release.model_version),
        "dataset": release.dataset_id,
        "prompt": release.prompt_id,
        "metrics": release.metrics,
    }


def _bits(release: dict[str, Any]) -> float:
    """Held-out bits per character, by the evaluate stage."""
    return float(release["metrics"]["heldout_bpc"])


def _aliases(demo: Demo, rollout_id: str) -> dict[str, Any]:
    """The registry's aliases, read from it once its queue has caught up. Raises ActFailed when it does not."""
    deadline = time.monotonic() + ALIAS_S
    while True:
        rollout = demo.patiently(lambda: demo.client.rollout(rollout_id))
        if rollout.registry_sync == "ok":
            break
        if time.monotonic() > deadline:
            raise ActFailed(
                f"the registry has not caught up with {rollout_id}: {rollout.registry_sync or 'nothing said'}"
            )
        demo.say("the registry follows")
        time.sleep(POLL_S)
    model = demo.patiently(lambda: demo.client.release(rollout.to_release)).model_name
    return dict(demo.patiently(lambda: demo.client.get(f"/v1/registry/{model}")))
