"""Rolling and swap: replicas of one release make room for those of the other, and the weight follows them. Pure."""

from __future__ import annotations

from engine.rollouts.effects import Scale
from engine.rollouts.moves import is_routed, reads, roll_back, stay, wanted_route, wanted_weights
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import RolloutState


def replace_replicas(r: RolloutNow, f: Facts) -> Move:
    """Make room, have the step's new replicas generate a token, give them their weight, take the old ones away.

    With n replicas, `surge` and `unavailable`, there are never more than n + surge of both releases, nor fewer than
    n - unavailable that answer.
    """
    assert r.from_release is not None
    step, before = r.steps[r.step], r.replaced_before
    floor = max(0, r.replicas - before - r.unavailable)
    if f.is_held:
        return stay(r)
    trouble = f.canary.crash_loop or f.canary.broken
    if trouble:
        return roll_back(r, f"{r.to_release} cannot serve: {trouble}")
    if f.canary.ready >= step.replicas and is_routed(r, f):
        # Traffic has been read back: now, and not before, the old replicas may go (I5).
        said = f"step {r.step + 1}: {step.replicas} of {r.replicas} replica(s) replaced, {step.weight} % of the traffic"
        return Move(RolloutState.STEP_BAKING, r.step, (Scale(r.from_release, r.left_after),), said)
    if f.state_s > r.prepare_timeout_s:
        return roll_back(r, f"{r.to_release} was not ready within {r.prepare_timeout_s:.0f} s")
    if f.canary.ready < before:
        # Of the batches before this one some do not answer: nothing more is taken away until they do.
        again = step.replicas if f.canary.alive > before else before
        return stay(r, Scale(r.to_release, again), message=f"waits for {before} of {r.to_release} to answer again")
    if f.canary.ready < step.replicas:
        if before and f.stable.alive > r.replicas - before:
            # Those that the batch before replaced are still there: a hand moved on before they went, or they still drain.
            return stay(
                r, Scale(r.from_release, r.replicas - before), message=f"{r.from_release} gives its places away"
            )
        if r.unavailable and f.stable.alive > floor and f.canary.alive <= before:
            if before and not floor and not reads(f, wanted_weights(r)):
                # The last old replicas go, and others answer: traffic leaves them first (I5).
                return stay(
                    r, wanted_route(r), message=f"{step.weight} % to the {before} of {r.to_release} that answer"
                )
            return stay(r, Scale(r.from_release, floor), message=f"makes room: {floor} of {r.from_release} left")
        return stay(r, Scale(r.to_release, step.replicas), message=f"starting {step.replicas} of {r.to_release}")
    return stay(r, wanted_route(r))
