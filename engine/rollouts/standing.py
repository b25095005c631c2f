"""Standing still and going back: paused, rolling back, and over. Pure."""

from __future__ import annotations

from engine.rollouts.back.way import capacity_for
from engine.rollouts.effects import RegistryMove, Route, Scale
from engine.rollouts.moves import reads, roll_back, stay
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import PauseReason, RolloutState, Strategy, VerdictKind

_S = RolloutState


def paused(r: RolloutNow, f: Facts) -> Move:
    """Stand still with the guardrails armed."""
    if r.pause_reason == PauseReason.FREEZE and not (f.is_frozen or f.is_held) and r.resume_state is not None:
        return Move(r.resume_state, r.step, (), "the freeze is over", restarts_step=True)
    # Guardrails stay armed while a person thinks; evidence that comes back does not un-pause by itself.
    if f.is_held or r.resume_state not in (_S.SHADOWING, _S.STEP_BAKING, _S.AWAITING_PROMOTION, _S.VERIFYING):
        return stay(r)
    if f.verdict is not None and f.verdict.kind is VerdictKind.FAIL and r.from_release is not None:
        return roll_back(r, f.verdict.sentence)
    return stay(r)


def rolling_back(r: RolloutNow, f: Facts) -> Move:
    """Traffic to stable and read back, then capacity, then the registry. Only ever goes on."""
    gives_way = bool(r.successor) and not r.was_going_back
    if r.from_release == r.to_release:
        return Move(_S.SUPERSEDED if gives_way else _S.CANCELLED, r.step, (), f"{r.to_release} is live already")
    end = _S.SUPERSEDED if gives_way else _S.ROLLED_BACK
    word = "reject" if r.met_traffic and not gives_way else "withdraw"
    then = f"; {r.successor} comes next" if r.successor else ""
    if r.from_release is None:
        return Move(end, r.step, (Scale(r.to_release, 0), RegistryMove(word, r.to_release, None)), f"withdrawn{then}")
    if r.strategy is Strategy.SWAP and f.canary.alive and f.stable.ready < 1:
        # There is no memory for both: the one that gives way must be gone before the other can load.
        return stay(r, Scale(r.to_release, 0), message=f"unloading {r.to_release} to restore {r.from_release}")
    back = Route(stable=r.from_release, canary=None, canary_weight=0, reverts=True)
    # The tracks too: a weight that was meant and has not reached the gateway yet would come with the next table.
    is_meant = f.tracks in (None, {r.from_release: 100})
    if not (reads(f, {r.from_release: 100}) and f.extras.reaches_nobody and is_meant):
        if waits_for_capacity(r, f):
            return stay(r, Scale(r.from_release, r.replicas), message=f"starting {r.from_release} to return to it")
        # Where replicas made room, the ones that are left take the traffic at once and the others are started beside.
        return stay(r, back, *((Scale(r.from_release, r.replicas),) if r.replaces else ()))
    if r.replaces and f.stable.ready < (1 if f.state_s > r.prepare_timeout_s else r.replicas):
        # Its places were given away: it is not back before it answers, whatever the weights say.
        again = (Scale(r.from_release, r.replicas), Scale(r.to_release, 0))
        return stay(r, *again, message=f"starting {r.from_release} again")
    # Traffic is back and read back; now capacity, then the registry's words.
    fresh = (Scale(r.from_release, 0, "baseline"),) if r.has_baseline else ()
    whole = (Scale(r.from_release, r.replicas),) if r.replaces else ()
    return Move(
        end,
        r.step,
        (*whole, Scale(r.to_release, 0), *fresh, RegistryMove(word, r.to_release, r.from_release)),
        f"{r.from_release} has all traffic{then}",
    )


def waits_for_capacity(r: RolloutNow, f: Facts) -> bool:
    """Capacity before traffic (I5): replicas for the share that moves, while what is left answers and starting is in time.

    With none ready it always waits; with some, never for long, and not beside a release that does not answer.
    """
    assert r.from_release is not None
    shares = f.weights or f.tracks
    moving = 100 - shares.get(r.from_release, 0) if shares else 0
    if f.stable.ready >= capacity_for(r.replicas, moving):
        return False
    leaves_answers = f.canary.ready > 0 and not (f.canary.crash_loop or f.canary.broken)
    return f.stable.ready < 1 or (leaves_answers and f.state_s <= r.prepare_timeout_s)


def terminal(r: RolloutNow, f: Facts) -> Move:
    """Over: nothing is wanted."""
    return stay(r)
