"""The other verbs: holds and freezes, pipelines and runs, alerts, notes, the engine itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlmodel import Session

from engine.access import Actor, demand
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, noun
from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.context import run_context
from engine.verbs import VERBS
from state import audit
from state.models import Alert, Lease
from state.words import Conflict, UsageError

_EVERYWHERE = "*"


def lease_verb(kind: str, starts: bool) -> Callable[[Desk, VerbRequest, Actor], Awaitable[VerbResult]]:
    async def handler(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
        env = request.ref.partition("/")[2] if request.ref.startswith("env/") else env_of(ops.config, request)
        ops.permit(request, actor, env, env)
        until = float(request.args.get("until_s") or 3600.0)
        name, at = f"{kind}/{env}", time.time()

        def change(session: Session) -> bool:
            row = session.get(Lease, name)
            if starts:
                row = row or Lease(name=name, kind=kind, holder="", reason="", starts_at=at, ends_at=at)
                row.holder, row.reason, row.starts_at, row.ends_at = actor.name, request.reason, at, at + until
                session.add(row)
            elif row is None or row.ends_at <= at:
                return False
            else:
                row.ends_at = at
                session.add(row)
            audit.append(session, actor=actor.name, action=request.verb, ref=f"env:{env}", reason=request.reason,
                         detail={"until": at + until} if starts else {})  # fmt: skip
            return True

        said = f"{kind} of {env}" + (f" for {until:.0f} s" if starts else " ended")
        if request.dry_run:
            return VerbResult(verb=request.verb, ref=f"env/{env}", changed=False, message=f"would: {said}")
        changed = await ops.store.write(change)
        ops.on_change(f"env/{env}", said)
        return VerbResult(
            verb=request.verb, ref=f"env/{env}", changed=changed, message=said if changed else "unchanged"
        )

    return handler


async def pipeline_run(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    name = noun(request, "pipeline")
    pipeline, service = pipeline_of(ops.config, name)
    overrides = dict(request.args.get("set") or {})
    context = await ops.store.read(lambda s: run_context(s, service, ops.workspace))
    demand(ops.config, next(iter(ops.config.environment), _EVERYWHERE), actor, request.verb)
    from_stage, force = request.args.get("from_stage"), bool(request.args.get("force"))
    if request.dry_run:
        planned = await ops.runner.plan(
            pipeline, overrides=overrides, from_stage=from_stage, force=force, context=context
        )
        lines = tuple(PlanLine(object=p.stage, field=p.action.value, before="", after=p.why) for p in planned)
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would run {name}",
                          plan=PlanView(verb=request.verb, ref=request.ref, lines=lines))  # fmt: skip
    run_id = await ops.runner.start(
        pipeline, overrides=overrides, actor=actor.name, reason=request.reason, from_stage=from_stage, force=force,
        context=context,
    )  # fmt: skip
    return VerbResult(verb=request.verb, ref=f"run/{run_id}", changed=True, message=f"{run_id}: {name} runs")


async def run_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    run_id = noun(request, "run")
    demand(ops.config, next(iter(ops.config.environment), _EVERYWHERE), actor, request.verb)
    if request.dry_run:
        return VerbResult(
            verb=request.verb, ref=request.ref, changed=False, message=f"would {VERBS[request.verb].summary}"
        )
    if request.verb == "run.cancel":
        await ops.runner.cancel(run_id, actor.name)
    else:
        await ops.runner.retry(run_id, actor.name)
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=f"{request.verb} {run_id}")


async def alert_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    name = noun(request, "alert" if request.verb != "alert.unsilence" else "silence")
    if not name.isdigit():
        raise UsageError(f"{request.ref}: an alert has a number", hint="`airboss alert list` shows them")
    number, minutes = int(name), float(request.args.get("minutes") or 60.0)
    if request.dry_run:
        return VerbResult(
            verb=request.verb, ref=request.ref, changed=False, message=f"would {VERBS[request.verb].summary}"
        )
    if request.verb == "alert.ack":
        await ops.alerts.ack(number, actor.name, request.reason)
    elif request.verb == "alert.silence":
        matchers = await ops.store.read(lambda s: alert_matchers(s, number))
        await ops.alerts.silence(matchers, actor.name, request.reason or "not given", time.time() + minutes * 60)
    else:
        await ops.alerts.unsilence(number, actor.name, request.reason)
    ops.on_change(request.ref, f"{request.verb} by {actor.user}")
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=VERBS[request.verb].summary)


async def note(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    text = str(request.args.get("text") or request.reason)
    if not text:
        raise UsageError("a note needs a text", hint="airboss note REF TEXT")
    ref = request.ref.replace("/", ":", 1)
    if not request.dry_run:
        await ops.store.write(lambda s: audit.append(s, actor=actor.name, action="note", ref=ref, reason=text))
        ops.on_change(request.ref, text)
    return VerbResult(verb="note", ref=request.ref, changed=not request.dry_run, message=text)


async def down(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    drains = request.verb == "engine.drain"
    env = next(iter(ops.config.environment), _EVERYWHERE)
    ops.permit(request, actor, env, ops.config.workspace.get("name") or ops.workspace.name)
    if not request.dry_run:
        await ops.store.write(
            lambda s: audit.append(s, actor=actor.name, action=request.verb, ref="engine:engine", reason=request.reason)
        )
        # After the answer has gone out.
        asyncio.get_running_loop().call_later(0.1, ops.stop, drains)
    said = "the engine and all that it serves stop" if drains else "the engine stops; what serves goes on"
    return VerbResult(verb=request.verb, ref="engine", changed=not request.dry_run, message=said)


def alert_matchers(session: Session, number: int) -> dict[str, str]:
    """What silences the alert `number` and its like: its name, service and environment. Raises Conflict when there is none."""
    row = session.get(Alert, number)
    if row is None:
        raise Conflict(f"there is no alert {number}", hint="`airboss alert list` shows them", code="no_alert")
    return {key: value for key, value in (("name", row.name), ("service", row.service), ("env", row.env)) if value}
