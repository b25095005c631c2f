"""The rollout machine: (rollout, facts) → move, pure. No clock, no I/O.

`next_move` is level-triggered: given where a rollout stands and what the world looks like, it says which state comes next
and which absolute effects are wanted now. Asking again after a crash gives the same answer. `by_hand.apply_verb` is the
same for what people ask. DESIGN §6 and `reference/delivery.md` §C are its table; I-numbers below name their invariants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from engine.rollouts.effects import Effect, RegistryMove, Route, Scale
from engine.rollouts.verdict import Verdict
from state.words import PauseReason, RolloutState, VerdictKind

_S = RolloutState


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One element of the strategy: `kind` is weight, pause, approval or analysis; `value` its percent, seconds or count."""

    kind: str
    value: float

    @property
    def weight(self) -> int:
        """The canary's share in percent; 0 for steps that set none."""
        return int(self.value) if self.kind == "weight" else 0


@dataclass(frozen=True, slots=True)
class RolloutNow:
    """A rollout's row, as the machine reads it."""

    id: str
    state: RolloutState
    step: int
    steps: tuple[StepSpec, ...]
    from_release: str | None
    to_release: str
    resume_state: RolloutState | None = None
    pause_reason: str = ""
    approvals_needed: int = 0
    auto_promote: bool = True
    replicas: int = 1
    prepare_timeout_s: float = 600.0
    was_promoted: bool = False
    """Traffic and aliases have moved to `to_release` already, so that a rollback must move them back."""

    @property
    def weight(self) -> int:
        """The weight of the newest weight step reached."""
        reached = [s.weight for s in self.steps[: self.step + 1] if s.kind == "weight"]
        return reached[-1] if reached else 0


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """Replicas of one release: how many answer, why they cannot, and whether they generated a token."""

    ready: int = 0
    crash_loop: str = ""
    broken: str = ""
    """A permanent defect, such as a file whose digest is wrong."""


@dataclass(frozen=True, slots=True)
class Facts:
    """The world, as read just now."""

    state_s: float
    """Seconds in this state, immune to clock jumps (I9)."""
    step_s: float
    stable: ReplicaFacts
    canary: ReplicaFacts
    weights: Mapping[str, int] | None
    """release → percent as every gateway worker has it; None when they disagree or cannot be asked."""
    verdict: Verdict | None = None
    approvals: int = 0
    rejections: int = 0
    is_held: bool = False
    is_frozen: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """What to do now. `state` equal to the rollout's own (and `step` too) means: stay, with `effects` still wanted."""

    state: RolloutState
    step: int
    effects: tuple[Effect, ...] = ()
    message: str = ""
    pause_reason: str = ""
    resume_state: RolloutState | None = None
    consumes_verdict: bool = False
    restarts_step: bool = False


def next_move(r: RolloutNow, f: Facts) -> Move:
    """What comes next for `r` in the world `f`."""
    return _HANDLERS[r.state](r, f)


def _stay(r: RolloutNow, *effects: Effect, message: str = "") -> Move:
    return Move(r.state, r.step, effects, message, r.pause_reason, r.resume_state)


def _to(r: RolloutNow, state: RolloutState, message: str, *, step: int | None = None, consumes: bool = False) -> Move:
    return Move(state, r.step if step is None else step, (), message, consumes_verdict=consumes)


def _pause(r: RolloutNow, reason: PauseReason, message: str) -> Move:
    return Move(_S.PAUSED, r.step, (), message, reason.value, r.state)


def roll_back(r: RolloutNow, message: str) -> Move:
    """Begin the way back; from here on it only continues."""
    return Move(_S.ROLLING_BACK, r.step, (), message)


def _planned(r: RolloutNow, f: Facts) -> Move:
    if f.is_held:
        return _stay(r)
    if r.approvals_needed:
        return _to(r, _S.AWAITING_APPROVAL, f"waits for {r.approvals_needed} approval(s)")
    return _to(r, _S.PREPARING, f"preparing {r.to_release}")


def _awaiting_approval(r: RolloutNow, f: Facts) -> Move:
    if f.rejections:
        return _to(r, _S.CANCELLED, "rejected")
    if f.is_held:
        return _stay(r)
    if f.approvals >= r.approvals_needed and not f.is_frozen:
        return _to(r, _S.PREPARING, f"approved; preparing {r.to_release}")
    return _stay(r)


def _preparing(r: RolloutNow, f: Facts) -> Move:
    trouble = f.canary.broken or f.canary.crash_loop
    if f.is_held:
        return _stay(r, Scale(r.to_release, r.replicas))
    if trouble:
        return roll_back(r, f"{r.to_release} cannot serve: {trouble}")
    if f.canary.ready >= r.replicas and f.is_frozen:
        return _stay(r, message="ready; a freeze holds it")
    if f.canary.ready >= r.replicas:
        if r.from_release is None:
            return _to(r, _S.PROMOTING, f"{r.to_release} has generated a token; it is the first release here")
        return _to(r, _S.STEP_APPLYING, f"{r.to_release} has generated a token", step=0)
    if f.state_s > r.prepare_timeout_s:
        return roll_back(r, f"{r.to_release} was not ready within {r.prepare_timeout_s:.0f} s")
    return _stay(r, Scale(r.to_release, r.replicas), RegistryMove("challenger", r.to_release, r.from_release))


def _wanted_weights(r: RolloutNow) -> dict[str, int]:
    if r.from_release is None or r.weight >= 100:
        return {r.to_release: 100}
    return {r.to_release: r.weight, r.from_release: 100 - r.weight}


def _reads(f: Facts, wanted: Mapping[str, int]) -> bool:
    return f.weights is not None and {k: v for k, v in f.weights.items() if v} == dict(wanted)


def _route_forward(r: RolloutNow) -> Route:
    stable, weight = r.from_release, r.weight
    return Route(stable=stable, canary=r.to_release, canary_weight=weight)


def _step_applying(r: RolloutNow, f: Facts) -> Move:
    if r.steps[r.step].kind != "weight" or _reads(f, _wanted_weights(r)):
        return _to(r, _S.STEP_BAKING, f"step {r.step + 1}: {_says(r.steps[r.step])}")
    if f.is_held:
        return _stay(r)
    if f.canary.crash_loop or f.canary.broken:
        return roll_back(r, f.canary.crash_loop or f.canary.broken)
    if f.canary.ready < 1:
        # Capacity before traffic (I5): a weight is never given to a release that cannot answer.
        return _stay(r, Scale(r.to_release, r.replicas), message="waits for the canary's replicas")
    return _stay(r, _route_forward(r))


def _says(step: StepSpec) -> str:
    if step.kind == "weight":
        return f"{step.weight} % of the traffic, being judged"
    return {"pause": f"pause of {step.value:.0f} s", "approval": "waits for approval", "analysis": "being judged"}[
        step.kind
    ]


def _step_baking(r: RolloutNow, f: Facts) -> Move:
    step = r.steps[r.step]
    if step.kind == "approval" and f.rejections:
        return roll_back(r, "an approver refused it")
    if step.kind in ("weight", "analysis"):
        return _judged(r, f, passed=_after_step(r, f))
    if f.is_held:
        return _stay(r)
    failed = _fails(r, f)
    if failed:
        return failed
    if step.kind == "pause" and f.step_s >= step.value and not f.is_frozen:
        return _after_step(r, f)
    if step.kind == "approval" and f.approvals >= r.approvals_needed + int(step.value) and not f.is_frozen:
        return _after_step(r, f)
    return _stay(r, *_keep_weight(r, f))


def _keep_weight(r: RolloutNow, f: Facts) -> tuple[Effect, ...]:
    """Weights that read back other than meant are set again; a gateway that lost them has been restarted."""
    if f.weights is None or _reads(f, _wanted_weights(r)):
        return ()
    return (_route_forward(r),)


def _after_step(r: RolloutNow, f: Facts) -> Move:
    if r.step + 1 < len(r.steps):
        return _to(r, _S.STEP_APPLYING, f"step {r.step + 1} passed", step=r.step + 1, consumes=True)
    if r.auto_promote:
        return _to(r, _S.PROMOTING, "every step passed", consumes=True)
    return _to(r, _S.AWAITING_PROMOTION, "every step passed; waits for `promote`", consumes=True)


def _fails(r: RolloutNow, f: Facts) -> Move | None:
    verdict = f.verdict
    if verdict is not None and verdict.kind is VerdictKind.FAIL:
        if r.from_release is None:
            return _pause(r, PauseReason.SLO, f"{verdict.sentence} There is no earlier release to return to.")
        return roll_back(r, verdict.sentence)
    return None


def _judged(r: RolloutNow, f: Facts, passed: Move) -> Move:
    """Move by the verdict: I8, absence of data can only pause; `hold` stops automatic movement either way."""
    verdict = f.verdict
    if verdict is None or f.is_held:
        return _stay(r, *_keep_weight(r, f))
    failed = _fails(r, f)
    if failed:
        return failed
    if verdict.common_mode:
        return _pause(r, PauseReason.SLO, verdict.sentence)
    if verdict.kind is VerdictKind.PASS:
        return (
            _stay(r, message="passed; a freeze holds it") if f.is_frozen else replace(passed, message=verdict.sentence)
        )
    if verdict.kind is VerdictKind.NO_DATA:
        return _pause(r, PauseReason.NO_DATA, verdict.sentence)
    if verdict.expired:
        return _pause(r, PauseReason.INCONCLUSIVE, verdict.sentence)
    return _stay(r, *_keep_weight(r, f))


def _awaiting_promotion(r: RolloutNow, f: Facts) -> Move:
    if f.is_held:
        return _stay(r)
    return _fails(r, f) or _stay(r, *_keep_weight(r, f))


def _promoting(r: RolloutNow, f: Facts) -> Move:
    if _reads(f, {r.to_release: 100}) and r.was_promoted:
        return _to(r, _S.VERIFYING, f"{r.to_release} has all traffic; verifying")
    if f.is_held:
        return _stay(r)
    if not r.was_promoted and f.canary.ready < 1:
        # All traffic is never given to a release that cannot answer (I5).
        if f.canary.crash_loop and r.from_release is not None:
            return roll_back(r, f.canary.crash_loop)
        return _stay(r, Scale(r.to_release, r.replicas), message=f"waits for {r.to_release} to answer")
    # Traffic first, then the registry's aliases; the registry may lag (registry_sync) without holding traffic.
    return _stay(
        r,
        Route(stable=r.to_release, canary=None, canary_weight=0, promotes=True),
        RegistryMove("promote", r.to_release, r.from_release),
    )


def _verifying(r: RolloutNow, f: Facts) -> Move:
    done = Move(_S.COMPLETED, r.step, (), f"{r.to_release} is live", consumes_verdict=True)
    return _judged(r, f, passed=done)


def _paused(r: RolloutNow, f: Facts) -> Move:
    # Guardrails stay armed while a person thinks; evidence that comes back does not un-pause by itself.
    if f.is_held or r.resume_state not in (_S.STEP_BAKING, _S.AWAITING_PROMOTION, _S.VERIFYING):
        return _stay(r)
    if f.verdict is not None and f.verdict.kind is VerdictKind.FAIL and r.from_release is not None:
        return roll_back(r, f.verdict.sentence)
    return _stay(r)


def _rolling_back(r: RolloutNow, f: Facts) -> Move:
    if r.from_release == r.to_release:
        return Move(_S.CANCELLED, r.step, (), f"{r.to_release} is live already")
    if r.from_release is None:
        return Move(
            _S.ROLLED_BACK, r.step, (Scale(r.to_release, 0), RegistryMove("reject", r.to_release, None)), "withdrawn"
        )
    if not _reads(f, {r.from_release: 100}):
        if f.stable.ready < 1:
            return _stay(r, Scale(r.from_release, r.replicas), message=f"starting {r.from_release} to return to it")
        return _stay(r, Route(stable=r.from_release, canary=None, canary_weight=0, reverts=True))
    # Traffic is back and read back; now capacity, then the registry's words.
    return Move(
        _S.ROLLED_BACK,
        r.step,
        (Scale(r.to_release, 0), RegistryMove("reject", r.to_release, r.from_release)),
        f"{r.from_release} has all traffic",
    )


def _terminal(r: RolloutNow, f: Facts) -> Move:
    return _stay(r)


_HANDLERS = {
    _S.PLANNED: _planned,
    _S.AWAITING_APPROVAL: _awaiting_approval,
    _S.PREPARING: _preparing,
    _S.STEP_APPLYING: _step_applying,
    _S.STEP_BAKING: _step_baking,
    _S.AWAITING_PROMOTION: _awaiting_promotion,
    _S.PROMOTING: _promoting,
    _S.VERIFYING: _verifying,
    _S.PAUSED: _paused,
    _S.ROLLING_BACK: _rolling_back,
    _S.COMPLETED: _terminal,
    _S.ROLLED_BACK: _terminal,
    _S.SUPERSEDED: _terminal,
    _S.CANCELLED: _terminal,
    _S.STUCK: _terminal,
}
