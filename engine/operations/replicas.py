"""Verbs on one replica: end it gently and start a new one in its place."""

from __future__ import annotations

from collections.abc import Sequence

from adapters.ports import ReplicaStatus
from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, known_env, noun
from state import audit
from state.words import Conflict


async def restart(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Drain one replica and have a new one in its place. The last one that answers for its release only with `force`.

    Raises Conflict when it is not there, leaves already, or nobody would answer meanwhile.
    """
    service = noun(request, "service")
    env = known_env(ops.config, env_of(ops.config, request))
    wanted = str(request.args.get("replica") or "")
    ops.permit(request, actor, env, service)
    runtime = ops.controller.world.runtime
    one = pick(runtime.replicas(service, env), wanted, f"{service} in {env}")
    others = [
        r for r in runtime.replicas(service, env)
        if r.is_ready and r.spawn_id != one.spawn_id and (r.release_id, r.role) == (one.release_id, one.role)
    ]  # fmt: skip
    if one.is_ready and not others and not request.args.get("force"):
        raise Conflict(
            f"{one.spawn_id} is the only replica of {one.release_id} that answers: nobody would until the new one is up",
            hint="--force restarts it all the same; a crash of it would be answered in the same way",
            code="only_replica",
        )
    said = f"{one.spawn_id} of {one.release_id} finishes what it has, and a new one starts in its place"
    if request.dry_run:
        lines = (PlanLine(object=one.spawn_id, field="process", before=f"pid {one.pid}", after="a new one"),)
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would restart: {said}",
                          plan=PlanView(verb=request.verb, ref=request.ref, lines=lines))  # fmt: skip
    detail = {"service": service, "env": env, "replica": one.spawn_id, "release": one.release_id, "pid": one.pid}
    await ops.store.write(
        lambda s: audit.append(s, actor=actor.name, action=request.verb, ref=f"service:{service}", reason=request.reason, detail=detail)
    )  # fmt: skip
    runtime.restart(one.spawn_id)
    ops.on_change(request.ref, said)
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=said)


def pick(replicas: Sequence[ReplicaStatus], wanted: str, where: str) -> ReplicaStatus:
    """The replica that `wanted` names, by its whole id or a beginning that only it has. Raises Conflict."""
    found = [r for r in replicas if wanted and r.spawn_id.startswith(wanted)]
    exact = [r for r in found if r.spawn_id == wanted]
    if len(exact or found) != 1:
        there = ", ".join(r.spawn_id for r in replicas) or "none"
        what = f"more than one replica of {where} begins" if found else f"no replica of {where} is called"
        raise Conflict(f"{what} {wanted!r}", hint=f"there are: {there}", code="no_replica")
    (one,) = exact or found
    if not one.is_wanted:
        raise Conflict(
            f"{one.spawn_id} is leaving already", hint="`airboss service replicas` shows them", code="leaving"
        )
    return one
