"""The steps: a weight applied and read back, then judged, waited out or approved. Pure."""

from __future__ import annotations

from engine.rollouts.effects import Scale
from engine.rollouts.moves import (
    fails,
    judged,
    keep_weight,
    pause,
    reads,
    roll_back,
    route_forward,
    stay,
    to,
    wanted_weights,
)
from engine.rollouts.values import Facts, Move, RolloutNow, StepSpec
from state.words import PauseReason, RolloutState

_S = RolloutState


def step_applying(r: RolloutNow, f: Facts) -> Move:
    """Set the step's weight and read it back."""
    if r.steps[r.step].kind != "weight" or reads(f, wanted_weights(r)):
        return to(r, _S.STEP_BAKING, f"step {r.step + 1}: {says(r.steps[r.step])}")
    if f.is_held:
        return stay(r)
    if f.canary.crash_loop or f.canary.broken:
        return roll_back(r, f.canary.crash_loop or f.canary.broken)
    if f.canary.ready < 1:
        # Capacity before traffic (I5): a weight is never given to a release that cannot answer.
        return stay(r, Scale(r.to_release, r.replicas), message="waits for the canary's replicas")
    return stay(r, route_forward(r))


def says(step: StepSpec) -> str:
    """The step in words."""
    if step.kind == "weight":
        return f"{step.weight} % of the traffic, being judged"
    return {"pause": f"pause of {step.value:.0f} s", "approval": "waits for approval", "analysis": "being judged"}[
        step.kind
    ]


def step_baking(r: RolloutNow, f: Facts) -> Move:
    """Judge the step, wait it out, or wait for an approver."""
    step = r.steps[r.step]
    if step.kind == "approval" and f.rejections:
        return roll_back(r, "an approver refused it")
    if step.kind in ("weight", "analysis"):
        return judged(r, f, passed=after_step(r, f))
    if f.is_held:
        return stay(r)
    failed = fails(r, f)
    if failed:
        return failed
    if step.kind == "pause" and f.step_s >= step.value:
        if f.is_frozen:
            return pause(r, PauseReason.FREEZE, "its pause is over, and a freeze holds it")
        return after_step(r, f)
    if step.kind == "approval" and f.approvals >= r.approvals_needed + int(step.value) and not f.is_frozen:
        return after_step(r, f)
    return stay(r, *keep_weight(r, f))


def after_step(r: RolloutNow, f: Facts) -> Move:
    """The next step, or the promotion."""
    if r.step + 1 < len(r.steps):
        return to(r, _S.STEP_APPLYING, f"step {r.step + 1} passed", step=r.step + 1, consumes=True)
    if r.auto_promote:
        return to(r, _S.PROMOTING, "every step passed", consumes=True)
    return to(r, _S.AWAITING_PROMOTION, "every step passed; waits for `promote`", consumes=True)
