"""The steps: a route applied and read back, then judged, waited out or approved. Pure."""

from __future__ import annotations

from engine.rollouts.back.way import capacity_for
from engine.rollouts.effects import Scale
from engine.rollouts.moves import (
    fails,
    is_meant,
    is_routed,
    judged,
    keep_route,
    pause,
    roll_back,
    stay,
    to,
    waited_too_long,
    wanted_route,
)
from engine.rollouts.replacing import replace_replicas
from engine.rollouts.values import Facts, Move, RolloutNow, StepSpec
from state.words import PauseReason, RolloutState, Strategy

_S = RolloutState


def step_applying(r: RolloutNow, f: Facts) -> Move:
    """Set the step's route and read it back."""
    step = r.steps[r.step]
    if r.replaces and step.replicas:
        return replace_replicas(r, f)
    if is_routed(r, f) and is_meant(r, f):
        return to(r, _S.SHADOWING if step.kind == "mirror" else _S.STEP_BAKING, f"step {r.step + 1}: {says(step)}")
    if f.is_held:
        return stay(r)
    if f.canary.crash_loop or f.canary.broken:
        return roll_back(r, f.canary.crash_loop or f.canary.broken)
    # Capacity before traffic (I5): no weight, no copy and no preview for a release that cannot answer as it should.
    needed = r.replicas if r.strategy is Strategy.BLUE_GREEN else capacity_for(r.replicas, r.weight)
    if f.canary.ready < needed:
        wait = stay(r, Scale(r.to_release, r.replicas), message="waits for the canary's replicas")
        return waited_too_long(r, f, r.to_release, f.canary.ready, needed) or wait
    if r.baseline_weight and r.from_release is not None and f.baseline.ready < 1:
        wait = stay(r, Scale(r.from_release, r.replicas, "baseline"), message="waits for the baseline's replicas")
        return waited_too_long(r, f, f"the baseline, {r.from_release},", f.baseline.ready, 1) or wait
    return stay(r, wanted_route(r))


def says(step: StepSpec) -> str:
    """The step in words."""
    if step.kind == "weight":
        judged_by = "being judged" if step.settle_s is None else f"settling for {step.settle_s:.0f} s"
        return f"{step.weight} % of the traffic, {judged_by}"
    if step.kind in ("header", "cookie"):
        return f"requests with the {step.kind} {step.text}, being judged"
    return {
        "pause": f"pause of {step.value:.0f} s",
        "approval": "waits for approval",
        "analysis": "being judged",
        "mirror": f"copies of {step.value:.0f} % of the requests, compared with what users got",
    }[step.kind]


def step_baking(r: RolloutNow, f: Facts) -> Move:
    """Judge the step, wait it out, or wait for an approver."""
    step = r.steps[r.step]
    if step.kind == "approval" and f.rejections:
        return roll_back(r, "an approver refused it")
    if step.settle_s is None and step.kind not in ("pause", "approval"):
        return judged(r, f, passed=after_step(r, f))
    if f.is_held:
        return stay(r)
    failed = fails(r, f)
    if failed:
        return failed
    if step.kind == "approval":
        is_over = f.approvals >= r.approvals_needed + int(step.value) and not f.is_frozen
    else:
        is_over = f.step_s >= (step.value if step.settle_s is None else step.settle_s)
    if is_over and f.is_frozen:
        return pause(r, PauseReason.FREEZE, "its pause is over, and a freeze holds it")
    return after_step(r, f) if is_over else stay(r, *keep_route(r, f))


def shadowing(r: RolloutNow, f: Facts) -> Move:
    """Judge the copies: enough pairs and a PASS go on, a FAIL goes back, no pairs pause. No user ever waits for one."""
    return judged(r, f, passed=after_step(r, f))


def after_step(r: RolloutNow, f: Facts) -> Move:
    """The next step, or the end of the steps: the promotion, or a person who promotes."""
    if r.step + 1 < len(r.steps):
        return to(r, _S.STEP_APPLYING, f"step {r.step + 1} passed", step=r.step + 1, consumes=True)
    if r.auto_promote:
        return to(r, _S.PROMOTING, "every step passed", consumes=True)
    return to(r, _S.AWAITING_PROMOTION, "every step passed; waits for `promote`", consumes=True)
