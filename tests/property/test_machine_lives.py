"""The rollout machine over random lives: crashes, lost effects, dead replicas, every verdict, every key, clocks that jump."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import machine_world
import pytest
from machine_events import report

from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import RolloutState, VerdictKind

S = RolloutState
NIGHTLY = 100_000


def broken_by(seeds: range) -> list[str]:
    """Play each seed; what broke."""
    return [trouble for seed in seeds if (trouble := report(seed)) is not None]


def test_the_invariants_hold_over_two_thousand_lives() -> None:
    assert not broken_by(range(2000))


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_the_invariants_hold_over_a_hundred_thousand_lives() -> None:
    step = 2000
    parts = [range(at, at + step) for at in range(2000, 2000 + NIGHTLY, step)]
    with ProcessPoolExecutor(initializer=sys.path.insert, initargs=(0, str(Path(__file__).parent))) as pool:
        found = [trouble for part in pool.map(broken_by, parts) for trouble in part]
    sys.stdout.write(f"{NIGHTLY} lives on {os.cpu_count()} cores, {len(found)} broken\n" + "\n".join(found))
    assert not found


def skip_read_back(r: RolloutNow, f: Facts) -> Move:
    """A rollback that believes its own words."""
    if r.state is S.ROLLING_BACK and r.from_release and f.stable.ready:
        f = replace(f, weights={r.from_release: 100}, tracks=None)
    return next_move(r, f)


def forget_tracks(r: RolloutNow, f: Facts) -> Move:
    """A rollback that does not look at what the next table will say."""
    return next_move(r, replace(f, tracks=None))


def take_silence_for_health(r: RolloutNow, f: Facts) -> Move:
    """No data is as good as a PASS."""
    if f.verdict and f.verdict.kind is VerdictKind.NO_DATA:
        f = replace(f, verdict=replace(f.verdict, kind=VerdictKind.PASS))
    return next_move(r, f)


def weight_before_capacity(r: RolloutNow, f: Facts) -> Move:
    """A weight goes to whatever there is."""
    return next_move(r, replace(f, canary=replace(f.canary, ready=max(1, f.canary.ready))))


def forget_the_hold(r: RolloutNow, f: Facts) -> Move:
    """A hold is not looked at."""
    return next_move(r, replace(f, is_held=False))


def turn_around(r: RolloutNow, f: Facts) -> Move:
    """A rollback that goes forward again when the canary looks well."""
    move = next_move(r, f)
    turns = r.state is S.ROLLING_BACK and f.canary.ready and f.weights == {r.to_release: 100}
    return replace(move, state=S.PROMOTING, effects=()) if turns else move


def trust_the_wall_clock(r: RolloutNow, f: Facts) -> Move:
    """Elapsed time that a jump of the clock stretches."""
    return next_move(r, replace(f, step_s=f.step_s * 100, state_s=f.state_s * 100))


def load_beside(r: RolloutNow, f: Facts) -> Move:
    """A swap that does not look at what still holds memory."""
    return next_move(r, replace(f, stable=replace(f.stable, alive=0), canary=replace(f.canary, alive=0)))


def take_away_at_once(r: RolloutNow, f: Facts) -> Move:
    """A rolling update that believes its batches stay alive."""
    ready = max(f.canary.ready, r.replaced_before)
    return next_move(r, replace(f, canary=replace(f.canary, ready=ready)) if r.replaces else f)


def promote_beside(r: RolloutNow, f: Facts) -> Move:
    """All traffic by hand starts all new replicas beside the old ones."""
    hurried = r.replaces and r.state is S.STEP_APPLYING and r.steps[r.step].settle_s == 0
    return next_move(replace(r, state=S.PROMOTING), f) if hurried else next_move(r, f)


def wait_for_ever(r: RolloutNow, f: Facts) -> Move:
    """No deadline for replicas."""
    return next_move(r, replace(f, state_s=0.0))


def call_all_superseded(r: RolloutNow, f: Facts) -> Move:
    """What went back for a reason of its own is called superseded once somebody waits for its place."""
    return next_move(replace(r, was_going_back=False), f)


@pytest.mark.parametrize(
    "mutant",
    [
        skip_read_back, forget_tracks, take_silence_for_health, weight_before_capacity, forget_the_hold, turn_around,
        trust_the_wall_clock, load_beside, take_away_at_once, promote_beside, wait_for_ever, call_all_superseded,
    ],
    ids=lambda mutant: mutant.__name__,
)  # fmt: skip
def test_a_wrong_machine_is_found_out(
    mutant: Callable[[RolloutNow, Facts], Move], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_world, "next_move", mutant)
    assert any(report(seed) for seed in range(4000))
