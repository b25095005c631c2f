"""What Git keeps in clusters: it refuses a rollout that would be taken back, and what was rolled back stays in an alert until Git says so too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from adapters.kubernetes import gitops, objects
from adapters.kubernetes.cluster import Cluster
from engine.api.schemas import PlanView
from engine.observe.conditions import GitFact
from engine.operations.desk import Desk
from state.words import Denied, Unreachable


@runtime_checkable
class KeptInGit(Protocol):
    """A runtime some of whose objects another tool keeps as Git has them."""

    async def moved_by_another(self, env: str, service: str) -> str:
        """What of a rollout's writes another controller moves; "" for nothing."""

    async def kept_in_git(self, env: str, service: str) -> tuple[tuple[str, ...], str]:
        """(what of a rollout's writes would be taken back, what to write in Git so that it is not)."""


async def with_git(ops: Desk, service: str, env: str, plan: PlanView, *, refuse: bool) -> PlanView:
    """The plan with what Git would take back of it. Raises Denied for that when it is to begin (`refuse`)."""
    runtime = ops.controller.world.runtime
    if not isinstance(runtime, KeptInGit):
        return plan
    try:
        moved = await runtime.moved_by_another(env, service)
        taken_back, ignore = await runtime.kept_in_git(env, service)
    except (Denied, Unreachable) as error:
        if refuse:
            raise
        return plan.model_copy(
            update={"warnings": (*plan.warnings, f"not known whose the objects are: {error.message}")}
        )
    if moved and refuse:
        raise Denied(
            f"{moved}: two that move one thing undo each other",
            hint="its spec.strategy is the ladder there (`kubectl argo rollouts`); give this environment Services and a route of its own",
            code="argo_rollouts",
        )
    if taken_back and refuse:
        raise Denied(
            f"Git would take this rollout back: {'; '.join(taken_back)}",
            hint=f"write this into the Application, or let Flux leave the object alone (`airboss help kubernetes`);"
            f' then, or with gitops = "agreed" in targets, it may begin:\n{ignore}',
            code="git_takes_back",
        )
    notes: tuple[str, ...] = (moved,) if moved else ()
    notes += tuple(f"Git would take it back: {said}" for said in taken_back)
    return plan.model_copy(update={"warnings": (*plan.warnings, *notes, *((ignore,) if taken_back else ()))})


def git_facts(clusters: Mapping[str, Cluster]) -> tuple[GitFact, ...]:
    """Every release's Deployment that Git's tool keeps, as far as is known without waiting. `clusters`: environment → its own."""
    return tuple(
        GitFact(env, labels.get(objects.NAME, ""), labels.get(objects.RELEASE, ""), name, str(owner),
                gitops.take_out(name, cluster.namespace))
        for env, cluster in clusters.items()
        for name, one in sorted(cluster.deployments.objects.items())
        if (owner := gitops.owner_of(one)) is not None
        for labels in [one["metadata"].get("labels") or {}]
    )  # fmt: skip
