"""Before any traffic: planned, approved, and its replicas made ready. Pure."""

from __future__ import annotations

from engine.rollouts.effects import RegistryMove, Scale
from engine.rollouts.moves import pause, roll_back, stay, to
from engine.rollouts.values import Facts, Move, RolloutNow
from engine.rollouts.wording import duration
from state.words import PauseReason, RolloutState

_S = RolloutState


def planned(r: RolloutNow, f: Facts) -> Move:
    """Wait for approvals, or begin."""
    if f.is_held:
        return stay(r)
    if r.approvals_needed:
        return to(r, _S.AWAITING_APPROVAL, f"waits for {r.approvals_needed} approval(s)")
    return to(r, _S.PREPARING, f"preparing {r.to_release}")


def awaiting_approval(r: RolloutNow, f: Facts) -> Move:
    """Wait until enough people said yes, one said no, or nobody did in time."""
    if f.rejections:
        return to(r, _S.CANCELLED, "rejected")
    if f.is_held:
        return stay(r)
    if f.approvals >= r.approvals_needed:
        return stay(r) if f.is_frozen else to(r, _S.PREPARING, f"approved; preparing {r.to_release}")
    if f.state_s > r.approval_timeout_s:
        return to(r, _S.CANCELLED, f"nobody approved it within {duration(r.approval_timeout_s)}")
    return stay(r)


def preparing(r: RolloutNow, f: Facts) -> Move:
    """Have the release's replicas and see each generate a token, before any traffic."""
    trouble = f.canary.broken or f.canary.crash_loop
    if r.replaces:
        # Nothing is started beside what runs: the first step makes its own room.
        if f.is_held or f.is_frozen:
            return stay(r, message="held by a freeze" if f.is_frozen else "")
        return to(r, _S.STEP_APPLYING, f"replacing {r.from_release}", step=0)
    if f.is_held:
        return stay(r, Scale(r.to_release, r.replicas))
    if trouble:
        return roll_back(r, f"{r.to_release} cannot serve: {trouble}")
    if r.has_baseline and r.from_release is not None and f.baseline.ready < r.replicas:
        if f.state_s > r.prepare_timeout_s:
            return roll_back(r, f"the baseline was not ready within {r.prepare_timeout_s:.0f} s")
        return stay(r, Scale(r.to_release, r.replicas), Scale(r.from_release, r.replicas, "baseline"),
                    RegistryMove("challenger", r.to_release, r.from_release))  # fmt: skip
    if f.canary.ready >= r.replicas and f.is_frozen:
        return pause(r, PauseReason.FREEZE, f"{r.to_release} is ready, and a freeze holds it")
    if f.canary.ready >= r.replicas:
        if r.from_release is None:
            return to(r, _S.PROMOTING, f"{r.to_release} has generated a token; it is the first release here")
        return to(r, _S.STEP_APPLYING, f"{r.to_release} has generated a token", step=0)
    if f.state_s > r.prepare_timeout_s:
        return roll_back(r, f"{r.to_release} was not ready within {r.prepare_timeout_s:.0f} s")
    return stay(r, Scale(r.to_release, r.replicas), RegistryMove("challenger", r.to_release, r.from_release))
