"""Verbs on triggers: let one rest, let it go on. What it is stands in airboss.toml."""

from __future__ import annotations

from sqlmodel import Session

from engine.access import EVERYWHERE, Actor, demand_everywhere
from engine.api.schemas import VerbRequest, VerbResult
from engine.operations.desk import Desk, noun
from engine.pipelines.triggers.watch import approve, set_paused, triggers_of
from engine.verbs import VERBS
from state import audit
from state.words import Conflict, UsageError


async def trigger_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Pause, resume, or approve the run that it proposes. What came while it was paused is passed over."""
    name = noun(request, "trigger")
    demand_everywhere(ops.config, actor, request.verb)
    known = triggers_of(ops.config)
    if name not in known:
        raise UsageError(
            f"there is no trigger {name!r}",
            hint=f"airboss.toml has: {', '.join(known) or 'none'} ([pipeline.NAME.trigger.NAME])",
            code="no_trigger",
        )
    if request.dry_run:
        would = f"would {VERBS[request.verb].summary}: {name}"
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=would)
    if request.verb == "trigger.approve":
        return await _approve(ops, request, actor, name)
    by = actor.name if request.verb == "trigger.pause" else ""

    def change(session: Session) -> bool:
        changed = set_paused(session, name, by)
        if changed:
            audit.append(session, actor=actor.name, action=request.verb, ref=f"trigger:{name}", reason=request.reason)
        return changed

    changed = await ops.store.write(change)
    said = f"{name} {'is paused' if by else 'is armed'}" if changed else "unchanged"
    if changed:
        ops.on_change(request.ref, said)
    return VerbResult(verb=request.verb, ref=request.ref, changed=changed, message=said)


async def _approve(ops: Desk, request: VerbRequest, actor: Actor, name: str) -> VerbResult:
    ops.permit(request, actor, EVERYWHERE, name)

    def change(session: Session) -> str:
        why = approve(session, name, actor.name)
        if why:
            audit.append(
                session,
                actor=actor.name,
                action=request.verb,
                ref=f"trigger:{name}",
                reason=request.reason,
                detail={"proposed": why},
            )
        return why

    why = await ops.store.write(change)
    if not why:
        raise Conflict(
            f"{name} proposes nothing", hint="`airboss trigger list` shows what each waits for", code="no_proposal"
        )
    said = f"{name} starts its run in a moment: {why}"
    ops.on_change(request.ref, said)
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=said)
