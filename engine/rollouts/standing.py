"""Standing still and going back: paused, rolling back, and over. Pure."""

from __future__ import annotations

from engine.rollouts.effects import RegistryMove, Route, Scale
from engine.rollouts.moves import reads, roll_back, stay
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import RolloutState, VerdictKind

_S = RolloutState


def paused(r: RolloutNow, f: Facts) -> Move:
    """Stand still with the guardrails armed."""
    # Guardrails stay armed while a person thinks; evidence that comes back does not un-pause by itself.
    if f.is_held or r.resume_state not in (_S.STEP_BAKING, _S.AWAITING_PROMOTION, _S.VERIFYING):
        return stay(r)
    if f.verdict is not None and f.verdict.kind is VerdictKind.FAIL and r.from_release is not None:
        return roll_back(r, f.verdict.sentence)
    return stay(r)


def rolling_back(r: RolloutNow, f: Facts) -> Move:
    """Traffic to stable and read back, then capacity, then the registry. Only ever goes on."""
    if r.from_release == r.to_release:
        return Move(_S.CANCELLED, r.step, (), f"{r.to_release} is live already")
    if r.from_release is None:
        return Move(
            _S.ROLLED_BACK, r.step, (Scale(r.to_release, 0), RegistryMove("reject", r.to_release, None)), "withdrawn"
        )
    # The tracks too: a weight that was meant and has not reached the gateway yet would come with the next table.
    if not reads(f, {r.from_release: 100}) or f.tracks not in (None, {r.from_release: 100}):
        if f.stable.ready < 1:
            return stay(r, Scale(r.from_release, r.replicas), message=f"starting {r.from_release} to return to it")
        return stay(r, Route(stable=r.from_release, canary=None, canary_weight=0, reverts=True))
    # Traffic is back and read back; now capacity, then the registry's words.
    return Move(
        _S.ROLLED_BACK,
        r.step,
        (Scale(r.to_release, 0), RegistryMove("reject", r.to_release, r.from_release)),
        f"{r.from_release} has all traffic",
    )


def terminal(r: RolloutNow, f: Facts) -> Move:
    """Over: nothing is wanted."""
    return stay(r)
