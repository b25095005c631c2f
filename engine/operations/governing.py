"""`config.apply`: an admin lets airboss.toml's roles, policies, environments and freezes hold."""

from __future__ import annotations

from sqlmodel import Session

from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk
from engine.people.governing import Difference, differences, governed, record, revision_of, touched
from state.config import Config, load_config
from state.words import Conflict


async def config_apply(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Check that the actor is an admin of all that changes, write it down, and let it hold from now on."""
    file = load_config(ops.workspace)
    found = differences(ops.config, file)
    plan = diff_plan(ops.config, file, found, request)
    revision = revision_of(governed(file))
    if not found:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message="unchanged: it holds already",
                          plan=plan, revision=revision)  # fmt: skip
    if request.expect_revision not in (None, revision):
        raise Conflict(
            "airboss.toml has changed since it was shown", hint="look again, then decide", code="revision_moved"
        )
    for env in touched(found, ops.config):
        ops.permit(request, actor, env, ops.config.workspace.get("name") or ops.workspace.name)
    said = f"{len(found)} change(s) of {', '.join(touched(found, ops.config))}"
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would apply {said}", plan=plan,
                          revision=revision)  # fmt: skip

    def write(session: Session) -> None:
        record(session, file, found, actor=actor.name, reason=request.reason)

    await ops.store.write(write)
    ops.config.take_governed(file)
    ops.on_change("engine/engine", f"{actor.user} applied {said}")
    ops.controller.wake.set()
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=f"applied {said}", plan=plan,
                      revision=revision)  # fmt: skip


def diff_plan(running: Config, file: Config, found: tuple[Difference, ...], request: VerbRequest) -> PlanView:
    """The governed changes, field by field; and a word on the others, which wait for the next start."""
    lines = tuple(
        PlanLine(object="airboss.toml", field=d.field, before=d.before, after=d.after or "nothing") for d in found
    )
    warnings = [f"needs an admin of {', '.join(touched(found, running))}"] if found else []
    others = running.other_tables_than(file)
    if others:
        warnings.append(f"changes of {', '.join(others)} hold from the engine's next start on")
    return PlanView(verb=request.verb, ref=request.ref, lines=lines, warnings=tuple(warnings))
