"""A strategy as steps: what the machine plays is the same for all, what they are made of is not. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from state.policy_config import Policy, Step, split_match
from state.words import Strategy

PREVIEW_LOOK_S = 60.0
"""How long a blue-green without steps of its own shows its preview before it switches."""
MIRROR_PCT = 10
"""What a shadow without steps of its own copies."""


def frozen_steps(strategy: Strategy, policy: Policy, replicas: int) -> list[dict[str, Any]]:
    """The steps that a rollout keeps, as `values.StepSpec` reads them."""
    if strategy in (Strategy.ROLLING, Strategy.SWAP):
        return _batches(replicas, *room_of(strategy, policy, replicas), policy.rolling.settle)
    own = [_frozen(step) for step in policy.steps]
    if strategy is Strategy.CANARY:
        return own
    kept = [step for step in own if step["kind"] != "weight"]
    if strategy is Strategy.SHADOW:
        has_mirror = any(step["kind"] == "mirror" for step in kept)
        return kept if has_mirror else [{"kind": "mirror", "value": float(MIRROR_PCT)}, *kept]
    return [*(kept or [{"kind": "pause", "value": PREVIEW_LOOK_S}]), {"kind": "weight", "value": 100.0}]


def room_of(strategy: Strategy, policy: Policy, replicas: int) -> tuple[int, int]:
    """(how many more, how many fewer) replicas there may be on the way. A swap has no room at all."""
    if strategy is Strategy.SWAP:
        return 0, replicas
    return min(policy.rolling.surge, replicas), min(policy.rolling.unavailable, replicas)


def approvals_within(steps: Sequence[Step]) -> int:
    """People whom the steps themselves ask, beyond those before the first."""
    return sum(step.approval or 0 for step in steps)


def _batches(replicas: int, surge: int, unavailable: int, settle_s: float | None) -> list[dict[str, Any]]:
    batch = surge + unavailable
    counts = [*range(batch, replicas, batch), replicas]
    return [
        {
            "kind": "weight",
            "value": float(100 * count // replicas),
            "replicas": count,
            **({"settle_s": settle_s} if settle_s is not None else {}),
        }
        for count in counts
    ]


def _frozen(step: Step) -> dict[str, Any]:
    value = getattr(step, step.kind)
    if step.kind in ("header", "cookie"):
        name, wanted = split_match(value)
        name = name.lower() if step.kind == "header" else name
        return {"kind": step.kind, "value": 0.0, "text": name if wanted is None else f"{name}={wanted}"}
    return {"kind": step.kind, "value": float(value)}
