"""What people ask of a rollout, as moves of the machine. Pure."""

from __future__ import annotations

from dataclasses import replace

from engine.rollouts.moves import roll_back
from engine.rollouts.values import Move, RolloutNow
from engine.verbs import rollout_refusal
from state.words import Conflict, PauseReason, RolloutState

_S = RolloutState
NOT_NOW = "not_now"
"""Code of a refusal by the table: this verb, in this state. Such a refusal is audited."""


def apply_verb(r: RolloutNow, verb: str, who: str, reason: str = "") -> Move:
    """What `verb` does to `r`. Raises Conflict with the table's reason when it may not."""
    refusal = rollout_refusal(verb, r.state, r.steps[r.step].kind if r.step < len(r.steps) else "", r.strategy)
    if refusal:
        raise Conflict(
            f"{verb} refused: {r.id}: {refusal}",
            hint=f"`airboss rollout show {r.id}` says where it stands",
            code=NOT_NOW,
        )
    why = f" ({reason})" if reason else ""
    if verb == "rollout.pause":
        return Move(_S.PAUSED, r.step, (), f"paused by {who}{why}", PauseReason.MANUAL.value, r.state)
    if verb == "rollout.resume":
        return _resumed(r, f"resumed by {who}{why}")
    if verb in ("rollback", "rollout.abort"):
        return _human_rollback(r, who, why)
    if verb == "rollout.promote":
        return replace(_promoted_by_hand(r), message=f"moved on by {who}{why}")
    if verb == "rollout.promote_full":
        return replace(_promoted_in_full(r), message=f"promoted to 100 % by {who}, gates skipped{why}")
    raise Conflict(f"{verb} does not change a rollout's state")


def _resumed(r: RolloutNow, message: str) -> Move:
    """Back to what it was doing; after a foreign edit its weights are set again first, and then judged anew."""
    back = r.resume_state or _S.PREPARING
    if r.pause_reason != PauseReason.DRIFT:
        return Move(back, r.step, (), message, restarts_step=True)
    again = _S.PROMOTING if back in (_S.PROMOTING, _S.VERIFYING) else _S.STEP_APPLYING
    return Move(again, r.step, (), f"{message}; its weights are set again", PauseReason.DRIFT.value, restarts_step=True)


def _human_rollback(r: RolloutNow, who: str, why: str) -> Move:
    if r.state in (_S.PLANNED, _S.AWAITING_APPROVAL):
        return Move(_S.CANCELLED, r.step, (), f"cancelled by {who}{why}")
    if r.from_release is None and r.was_promoted:
        raise Conflict(
            f"{r.id} is the first release of its service: there is none to return to",
            hint="deploy another release; it may come from `airboss release list`",
            code="no_earlier_release",
        )
    return roll_back(r, f"rolled back by {who}{why}")


def _promoted_in_full(r: RolloutNow) -> Move:
    """All traffic at once; where replicas make room for each other, the batches that are left, none of them judged."""
    last = max((i for i, s in enumerate(r.steps) if s.kind == "weight"), default=len(r.steps) - 1)
    stands = r.standing is _S.STEP_BAKING
    if r.replaces and r.standing not in (_S.AWAITING_PROMOTION, _S.PROMOTING, _S.VERIFYING) and r.step + stands <= last:
        return Move(_S.STEP_APPLYING, r.step + stands, restarts_step=True, skips_gates=True)
    return Move(_S.PROMOTING, last)


def _promoted_by_hand(r: RolloutNow) -> Move:
    standing = r.resume_state if r.state is _S.PAUSED else r.state
    if standing is _S.AWAITING_PROMOTION:
        return Move(_S.PROMOTING, r.step)
    if standing is _S.VERIFYING:
        return Move(_S.COMPLETED, r.step)
    if standing in (_S.STEP_BAKING, _S.SHADOWING):
        if r.step + 1 < len(r.steps):
            return Move(_S.STEP_APPLYING, r.step + 1)
        return Move(_S.PROMOTING, r.step)
    if standing is not None:
        return Move(standing, r.step, restarts_step=True)
    return Move(_S.PREPARING, r.step)
