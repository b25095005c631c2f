"""What stops a rollout that is not evidence: a foreign hand on the weights, effects that fail, an adapter that is away, a
place without room. Pure.

A rollback is never stopped by any of these: it goes on trying. Nor does a hold or a pause look at them.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.rollouts.moves import pause, wanted_weights
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import PauseReason, RolloutState

_S = RolloutState
STUCK_AFTER = 5
"""Tries of one effect that is refused, or that does not read back, before a person is asked."""
OUTAGE_S = 120.0
"""How long an adapter may be away before the rollout pauses; until then it only tries again."""
_READ = frozenset({_S.SHADOWING, _S.STEP_APPLYING, _S.STEP_BAKING, _S.AWAITING_PROMOTION, _S.PROMOTING, _S.VERIFYING})
_ACTS = _READ | {_S.PREPARING}
_FORWARD = frozenset({_S.PREPARING, _S.SHADOWING, _S.STEP_APPLYING, _S.STEP_BAKING})


def hindered(r: RolloutNow, f: Facts) -> Move | None:
    """The pause, or the standstill, that the world forces on `r`; None when it may go on."""
    if f.is_held or r.state not in _ACTS:
        return None
    if not r.overwrites and r.state in _READ and (split := foreign_split(r, f)):
        return pause(
            r,
            PauseReason.DRIFT,
            f"somebody else has set the weights: {says(split)}, where {r.id} set {says(f.known[-1]) if f.known else 'none'}",
        )
    if f.canary.lacks and r.state in _FORWARD:
        return pause(r, PauseReason.CAPACITY, f"{r.to_release} waits for what is not there: {f.canary.lacks}")
    trouble = f.trouble
    if trouble is None:
        return None
    if trouble.is_outage:
        if trouble.since_s < OUTAGE_S:
            return None
        return pause(r, PauseReason.ADAPTER_DOWN, f"{trouble.says}; unreachable for {trouble.since_s:.0f} s")
    if trouble.attempts < STUCK_AFTER:
        return None
    if trouble.is_capacity:
        return pause(r, PauseReason.CAPACITY, f"{trouble.says}, {trouble.attempts} times: there is no room for it")
    return Move(
        _S.STUCK, r.step, (), f"tried {trouble.attempts} times and it does not hold: {trouble.says}",
        resume_state=r.state,
    )  # fmt: skip


def foreign_split(r: RolloutNow, f: Facts) -> Mapping[str, int]:
    """The weights that are there, when neither this rollout set them nor the release before has all; else nothing."""
    there = nonzero(f.weights or {})
    before = [{r.from_release: 100}] if r.from_release else []
    known = [*map(nonzero, f.known), wanted_weights(r), {r.to_release: 100}, *before]
    return {} if not there or there in known else there


def nonzero(weights: Mapping[str, int]) -> dict[str, int]:
    """The releases that get traffic."""
    return {release: weight for release, weight in weights.items() if weight}


def says(split: Mapping[str, int]) -> str:
    """`75 % charlm-2, 25 % charlm-3`."""
    return ", ".join(f"{weight} % {release}" for release, weight in sorted(split.items(), key=lambda item: -item[1]))
