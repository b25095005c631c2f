"""Before a rollout in a cluster: is the image what its maker signed? Else it is refused before its first write."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from adapters.kubernetes.signatures import Checked
from engine.api.schemas import PlanLine, PlanView
from engine.operations.desk import Desk
from state.words import AirbossError


@runtime_checkable
class RunsImages(Protocol):
    """A runtime whose replicas are images."""

    async def checked_image(self, env: str, service: str, release_id: str) -> tuple[str, Checked] | None:
        """(image, what is known of it); None where none is run. Raises GateRefused."""


async def with_image(ops: Desk, service: str, env: str, release_id: str, plan: PlanView, *, refuse: bool) -> PlanView:
    """The plan with what is known of the image. Raises GateRefused, TimedOut, Unreachable when it is to begin (`refuse`)."""
    runtime = ops.controller.world.runtime
    if not isinstance(runtime, RunsImages):
        return plan
    try:
        found = await runtime.checked_image(env, service, release_id)
    except AirbossError as error:
        if refuse:
            raise
        return plan.model_copy(update={"warnings": (*plan.warnings, error.message)})
    if found is None:
        return plan
    image, checked = found
    line = PlanLine(object=f"{env} image", field=release_id, before="", after=f"{image} ({checked.said})")
    warnings = (*plan.warnings, *((checked.warning,) if checked.warning else ()))
    return plan.model_copy(update={"lines": (*plan.lines, line), "warnings": warnings})
