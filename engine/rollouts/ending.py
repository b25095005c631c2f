"""The end of the way there: promotion, and the verification after it. Pure."""

from __future__ import annotations

from dataclasses import replace

from engine.rollouts.effects import RegistryMove, Route, Scale
from engine.rollouts.moves import fails, judged, keep_route, reads, roll_back, stay, to, waited_too_long
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import RolloutState

_S = RolloutState


def awaiting_promotion(r: RolloutNow, f: Facts) -> Move:
    """Every step passed; a person promotes."""
    if f.is_held:
        return stay(r)
    return fails(r, f) or stay(r, *keep_route(r, f))


def promoting(r: RolloutNow, f: Facts) -> Move:
    """All traffic, then the registry's aliases."""
    if reads(f, {r.to_release: 100}) and r.was_promoted:
        return to(r, _S.VERIFYING, f"{r.to_release} has all traffic; verifying")
    if f.is_held:
        return stay(r)
    needed = needed_for_all(r, f)
    if not r.was_promoted and f.canary.ready < needed:
        # All traffic is never given to replicas that could not carry it (I5).
        if (f.canary.crash_loop or f.canary.broken) and r.from_release is not None:
            return roll_back(r, f.canary.crash_loop or f.canary.broken)
        wait = stay(r, Scale(r.to_release, r.replicas), message=f"waits for {r.to_release} to answer")
        return waited_too_long(r, f, r.to_release, f.canary.ready, needed) or wait
    # Traffic first, then the registry's aliases; the registry may lag (registry_sync) without holding traffic.
    return stay(
        r,
        Route(stable=r.to_release, canary=None, canary_weight=0, promotes=True),
        RegistryMove("promote", r.to_release, r.from_release),
    )


def needed_for_all(r: RolloutNow, f: Facts) -> int:
    """Replicas that must answer before all traffic is the release's: all of them, unless it has the traffic already."""
    rises = 100 - (f.weights or {}).get(r.to_release, 0)
    if r.from_release is None or not (rises or r.replaces):
        return 1
    return r.replicas


def verifying(r: RolloutNow, f: Facts) -> Move:
    """Judge the promoted release once more; then the rollout is complete."""
    done = Move(_S.COMPLETED, r.step, (), f"{r.to_release} is live", consumes_verdict=True)
    move = judged(r, f, passed=done)
    if move.state is _S.VERIFYING and move.effects:
        # A gateway that lost its table gets the promoted route again: the release is stable now, no canary at 100 %.
        again = Route(stable=r.to_release, canary=None, canary_weight=0, promotes=True)
        return replace(move, effects=tuple(again if isinstance(one, Route) else one for one in move.effects))
    return move
