"""Whether the place of a rollout allows what it will ask: before the first write, not in the middle of a step."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from engine.api.schemas import PlanView
from state.words import AirbossError, Denied


@runtime_checkable
class SaysAllowed(Protocol):
    """A runtime in places that may forbid things to us."""

    async def refusal_of(self, env: str) -> Denied | None:
        """What is not allowed there, with the rules that allow it; None when nothing is lacking. Raises AirbossError."""


async def with_permissions(runtime: object, env: str, plan: PlanView, *, dry_run: bool) -> PlanView:
    """The plan with what is not allowed in `env`, for who only looks. Raises Denied for who would begin without it.

    A place that cannot be asked is a warning: whether a rollout begins there is not this question's to say.
    """
    if not isinstance(runtime, SaysAllowed):
        return plan
    try:
        refusal = await runtime.refusal_of(env)
    except AirbossError as error:
        return _warned(plan, f"whether all of this is allowed is not known: {error.message}")
    if refusal is None:
        return plan
    if not dry_run:
        raise refusal
    return _warned(plan, f"{refusal.message}; it will be refused. {refusal.hint}")


def _warned(plan: PlanView, warning: str) -> PlanView:
    return plan.model_copy(update={"warnings": (warning, *plan.warnings)})
