"""The verbs that settle what a restore left open: the record follows the world, or the world the record."""

from __future__ import annotations

from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, noun
from engine.rollouts import planning


async def settle(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """`state.adopt` and `state.enforce`, for one service in one environment."""
    service, env = noun(request, "service"), env_of(ops.config, request)
    planning.check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    found = [d for d in await ops.restored.differences() if d.kind == "weights" and d.ref == f"service/{service}@{env}"]
    adopts = request.verb == "state.adopt"
    lines = tuple(
        PlanLine(
            object=f"{env} record" if adopts else f"{env} traffic",
            field=service,
            before=d.record if adopts else d.world,
            after=d.world if adopts else d.record,
        )
        for d in found
    )
    plan = PlanView(verb=request.verb, ref=request.ref, lines=lines)
    if request.dry_run:
        said = "the record would follow the world" if adopts else "the world would follow the record"
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=said, plan=plan)
    if not found:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message="unchanged: nothing differs")
    act = ops.restored.adopt if adopts else ops.restored.enforce
    said = await act(service, env, actor.name, request.reason)
    ops.on_change(request.ref, said)
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=said, plan=plan)
