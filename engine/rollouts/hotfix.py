"""A hotfix: the stable release is bad itself, so nothing can be compared with it, nor should it keep a share of the traffic.

A canary beside a stable that does not answer leaves most users with errors for as long as the steps take. A hotfix has one step,
all traffic, judged by the service's own objective (DESIGN §6, route b); whether stable answers is not asked. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from state.words import Strategy, UsageError


def hotfix_policy(policy: Mapping[str, Any], reason: str) -> dict[str, Any]:
    """The policy with its steps made one. Raises UsageError without a reason: gates are left out."""
    if not reason:
        raise UsageError("a hotfix takes a reason", hint="add --reason TEXT", code="reason")
    steps = [{"kind": "weight", "value": 100.0}]
    return {**policy, "strategy": Strategy.CANARY.value, "steps": steps, "baseline": False, "hotfix": True}


def hotfix_notes(
    release_id: str, stable: str | None, *, ready: int, wanted: int, is_hotfix: bool, first_pct: int
) -> tuple[str, ...]:
    """What to know before a hotfix; or, before any other rollout, that stable does not answer and a hotfix might be meant."""
    if stable is None:
        return ()
    state = f"{ready} of {wanted} replicas of {stable} answer"
    if is_hotfix:
        return (
            f"a hotfix: {state}, and that is not asked for; {release_id} gets all traffic once its replicas have generated a "
            "token, and is judged by the objective alone",
            f"should it fail, traffic returns to {stable} once that answers",
        )
    if ready:
        return ()
    return (
        f"{stable} does not answer ({state}): until the last step {100 - first_pct} % of the traffic and less still goes to "
        f"it, and there is nothing to compare {release_id} with; `--hotfix --reason TEXT` gives it all traffic at once",
    )
