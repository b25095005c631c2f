"""Why a rollout is not moving: one sentence that names what it waits for, and what a person can do about it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from engine.rollouts.wording import duration, sentence
from state.words import PauseReason, RolloutState

_S = RolloutState


@dataclass(frozen=True, slots=True)
class Bar:
    """A hold or a freeze: whose, why, and how long yet; infinite for one that ends by what it waits for."""

    holder: str
    reason: str
    left_s: float

    def says(self) -> str:
        """By whom, for how long, why."""
        lasts = "until it recovers" if math.isinf(self.left_s) else f"for {duration(self.left_s)} more"
        return f"by {self.holder} {lasts}" + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a rollout stands, with all that may keep it there."""

    id: str
    state: RolloutState
    message: str
    from_release: str | None
    to_release: str
    pause_reason: str = ""
    resume_state: RolloutState | None = None
    step_kind: str = ""
    step_left_s: float = 0.0
    """Of a pause step: seconds yet."""
    prepare_left_s: float = 0.0
    """Until what has not answered makes it go back, or pause."""
    replaces: bool = False
    """Replicas make room for each other: each step starts its own."""
    verdict: str = ""
    """The judge's newest word on this step."""
    approvals: int = 0
    approvals_needed: int = 0
    ready: int = 0
    stable_ready: int = 0
    replicas: int = 1
    trouble: str = ""
    successor: str = ""
    hold: Bar | None = None
    freeze: Bar | None = None


def why(s: Standing) -> str:
    """The one thing it waits for; empty when it is over."""
    if s.state.is_terminal:
        return ""
    if s.hold is not None and s.state is not _S.ROLLING_BACK:
        return sentence(
            f"held {s.hold.says()}: nothing moves by itself, either way, until that ends or `rollout unhold`"
        )
    return sentence(_BY_STATE[s.state](s))


def _planned(s: Standing) -> str:
    return "it has just been planned; its first look comes within a second"


def _awaiting_approval(s: Standing) -> str:
    if s.approvals < s.approvals_needed:
        return f"it waits for approval: {s.approvals} of {s.approvals_needed} have said yes (`rollout approve {s.id}`)"
    return _frozen(s) or "it is approved; its next look prepares it"


def _preparing(s: Standing) -> str:
    if s.trouble:
        return f"its replicas cannot be had yet: {s.trouble}"
    return (
        f"{s.ready} of {s.replicas} replicas of {s.to_release} answer and must each generate a token; it goes back if they "
        f"do not within {duration(max(s.prepare_left_s, 0))}"
    )


def _applying(s: Standing) -> str:
    if s.trouble:
        return f"the weight is not there yet: {s.trouble}"
    if s.ready < 1:
        return (
            f"no replica of {s.to_release} answers, and none gets traffic before it does; it "
            f"{'goes back' if s.replaces else 'pauses'} if none does within {duration(max(s.prepare_left_s, 0))}"
        )
    return "its weight is being set, and every gateway worker must read it back"


def _shadowing(s: Standing) -> str:
    return s.verdict or "copies of requests are compared with what users got; there is no word on them yet"


def _baking(s: Standing) -> str:
    if s.step_kind == "pause":
        return (
            f"this step is a pause: {duration(s.step_left_s)} yet"
            if s.step_left_s > 0
            else _frozen(s) or "its pause is over"
        )
    if s.step_kind == "approval":
        return f"this step waits for approval: {s.approvals} of {s.approvals_needed} have said yes (`rollout approve {s.id}`)"
    return s.verdict or "the judge has not spoken on this step yet"


def _awaiting_promotion(s: Standing) -> str:
    return f"every step passed and a person promotes it: `rollout promote {s.id}`"


def _promoting(s: Standing) -> str:
    if s.trouble:
        return f"all traffic is to go to {s.to_release} and does not yet: {s.trouble}"
    return f"all traffic goes to {s.to_release}; every gateway worker must read it back"


def _verifying(s: Standing) -> str:
    return f"all traffic is on {s.to_release}, which is judged once more: {s.verdict or 'no word yet'}"


def _paused(s: Standing) -> str:
    ways = f"`rollout resume {s.id}` goes on, `rollback` goes back"
    reason = next((one for one in PauseReason if one == s.pause_reason), None)
    if reason is PauseReason.FREEZE:
        return _frozen(s) or "the freeze is over; its next look goes on"
    if reason is PauseReason.DRIFT:
        return f"{s.message}; `rollout adopt {s.id}` accepts them, `rollout resume {s.id}` sets its own again"
    if reason in (PauseReason.INCONCLUSIVE, PauseReason.NO_DATA, PauseReason.SLO) and s.verdict:
        judged = {
            PauseReason.INCONCLUSIVE: "its evidence came to nothing in the time of the step",
            PauseReason.NO_DATA: "there is no evidence",
            PauseReason.SLO: "the service misses its objective with either release",
        }[reason]
        return f"{judged}: {s.verdict.rstrip('.')}; {ways}"
    return f"{s.message or 'it is paused'}; {ways}"


def _rolling_back(s: Standing) -> str:
    then = f"; then {s.successor} begins" if s.successor else ""
    if s.trouble:
        return f"all traffic is to return to {s.from_release}, and it is tried until it does: {s.trouble}{then}"
    if s.stable_ready < s.replicas:
        return f"the way back starts {s.from_release} first: {s.stable_ready} of {s.replicas} replicas answer{then}"
    return f"all traffic returns to {s.from_release}; every gateway worker must read it back{then}"


def _stuck(s: Standing) -> str:
    return f"{s.message or 'it is stuck'}; `rollout adopt {s.id}` goes on from what is there, `rollback` goes back"


def _frozen(s: Standing) -> str:
    return f"frozen {s.freeze.says()}: it goes on by itself after that" if s.freeze is not None else ""


_BY_STATE: dict[RolloutState, Callable[[Standing], str]] = {
    _S.PLANNED: _planned,
    _S.AWAITING_APPROVAL: _awaiting_approval,
    _S.PREPARING: _preparing,
    _S.SHADOWING: _shadowing,
    _S.STEP_APPLYING: _applying,
    _S.STEP_BAKING: _baking,
    _S.AWAITING_PROMOTION: _awaiting_promotion,
    _S.PROMOTING: _promoting,
    _S.VERIFYING: _verifying,
    _S.PAUSED: _paused,
    _S.ROLLING_BACK: _rolling_back,
    _S.STUCK: _stuck,
}
