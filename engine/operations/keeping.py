"""The other verbs: holds and freezes, pipelines and runs, alerts, notes, the engine itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sqlmodel import Session

from engine.access import EVERYWHERE, Actor, demand, demand_everywhere, demand_somewhere
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, Place, env_of, known_env, noun, place_of, positive, row_number
from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.context import run_context
from engine.verbs import VERBS
from state import audit
from state.models import Alert, Lease
from state.words import Conflict, UsageError

HOLD_S = 3600.0
"""How long a hold or a freeze lasts when nobody says."""
LONGEST_HOLD_S = 366 * 24 * 3600.0
"""A longer one is a slip of the hand, and its end may be no date that can be shown."""
SILENCE_MINUTES = 60.0
_LISTS = {"alert": "list", "silence": "silences"}
_ALERT_DONE = {
    "alert.ack": "{} is acknowledged: you look at it",
    "alert.silence": "{} is silenced: nobody is told of it",
    "alert.unsilence": "{} is ended: people are told again",
}


def lease_verb(kind: str, starts: bool) -> Callable[[Desk, VerbRequest, Actor], Awaitable[VerbResult]]:
    """The verb that starts, or ends, the lease `kind`: a freeze of an environment, a hold of one service in it or of all."""

    async def handler(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
        place = await ops.store.read(lambda s: place_of(s, request.ref))
        env = known_env(ops.config, place.env if place else env_of(ops.config, request))
        ops.permit(request, actor, env, env)
        lasts_s = positive(request, "until_s", HOLD_S)
        if lasts_s > LONGEST_HOLD_S:
            raise UsageError(f"a {kind} lasts a year at most", hint="begin it again when it ends", code="until")
        service = _held_service(ops, request, place) if kind == "hold" else ""
        ref = f"service/{service}" if service else f"env/{env}"
        what = f"{service} in {env}" if service else env
        name, at = f"{kind}/{env}/{service}" if service else f"{kind}/{env}", time.time()

        def change(session: Session) -> float | None:
            row = session.get(Lease, name) or Lease(
                name=name, kind=kind, holder="", reason="", starts_at=at, ends_at=at
            )
            if starts:
                start_lease(row, actor.name, request.reason, at, lasts_s)
            elif row.ends_at <= at:
                return None
            else:
                row.ends_at = at
            session.add(row)
            audit.append(session, actor=actor.name, action=request.verb, ref=ref.replace("/", ":", 1), reason=request.reason,
                         detail={"env": env, **({"until": row.ends_at} if starts else {})})  # fmt: skip
            return row.ends_at

        if request.dry_run:
            would = f"{kind} of {what} for {lasts_s:.0f} s" if starts else f"{kind} of {what} ended"
            return VerbResult(verb=request.verb, ref=ref, changed=False, message=f"would: {would}")
        ends_at = await ops.store.write(change)
        if ends_at is None:
            return VerbResult(verb=request.verb, ref=ref, changed=False, message="unchanged")
        said = f"{kind} of {what} for {ends_at - at:.0f} s" if starts else f"{kind} of {what} ended"
        ops.on_change(ref, said)
        return VerbResult(verb=request.verb, ref=ref, changed=True, message=said)

    return handler


def _held_service(ops: Desk, request: VerbRequest, place: Place | None) -> str:
    """The service that a hold is of; "" for every service of an environment. Raises UsageError for one that is not there."""
    kind, _, name = request.ref.partition("/")
    if kind == "rollout" and place is not None:
        return place.name
    if kind == "service" and name not in ops.config.service:
        raise UsageError(
            f"there is no service {name!r}",
            hint=f"airboss.toml has: {', '.join(ops.config.service) or 'none'}",
            code="no_service",
        )
    return name if kind == "service" else ""


def start_lease(row: Lease, holder: str, reason: str, at: float, lasts_s: float) -> None:
    """Let the lease last `lasts_s` seconds from `at`. One that lives is joined: nobody shortens it, and all are named."""
    if row.ends_at <= at:
        row.holder, row.reason, row.starts_at, row.ends_at = holder, reason, at, at + lasts_s
        return
    row.holder = _joined(row.holder, ", ", holder)
    row.reason = _joined(row.reason, "; ", reason)
    row.ends_at = max(row.ends_at, at + lasts_s)


def _joined(said: str, by: str, more: str) -> str:
    """`more` added to the list `said`, unless it stands there."""
    parts = said.split(by) if said else []
    return by.join(parts if not more or more in parts else [*parts, more])


async def pipeline_run(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    name = noun(request, "pipeline")
    pipeline, service = await asyncio.to_thread(pipeline_of, ops.config, name, ops.workspace)
    overrides = request.args.get("set") or {}
    if not isinstance(overrides, dict):
        raise UsageError(f"set is a table of parameters, not {overrides!r}", code="set")
    # Every environment may serve what it makes: a service is not bound to some of them.
    demand_everywhere(ops.config, actor, request.verb)
    context = await ops.store.read(lambda s: run_context(s, service, ops.workspace))
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
    demand_everywhere(ops.config, actor, request.verb)
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
    """Acknowledge or silence an alert, or end a silence, as the environment it is in permits."""
    kind = "silence" if request.verb == "alert.unsilence" else "alert"
    name = noun(request, kind)
    number = row_number(name)
    if number is None:
        raise UsageError(f"{request.ref}: {kind}s have numbers", hint="`airboss alert list` shows them")
    minutes = positive(request, "minutes", SILENCE_MINUTES)
    place = await ops.store.read(lambda s: place_of(s, request.ref))
    if place is None:
        raise Conflict(
            f"there is no {kind} {number}", hint=f"`airboss alert {_LISTS[kind]}` shows them", code=f"no_{kind}"
        )
    ops.permit(request, actor, place.env, place.name)
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
    return VerbResult(
        verb=request.verb, ref=request.ref, changed=True, message=_ALERT_DONE[request.verb].format(request.ref)
    )


async def note(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Leave a note: an operator's, there where the thing is; of what has no environment, any operator's."""
    text = str(request.args.get("text") or request.reason)
    if not text:
        raise UsageError("a note needs a text", hint="airboss note REF TEXT")
    place = await ops.store.read(lambda s: place_of(s, request.ref))
    if place is not None and place.env in ops.config.environment:
        demand(ops.config, place.env, actor, request.verb)
    else:
        demand_somewhere(ops.config, actor, request.verb)
    ref = request.ref.replace("/", ":", 1)
    if not request.dry_run:
        await ops.store.write(lambda s: audit.append(s, actor=actor.name, action="note", ref=ref, reason=text))
        ops.on_change(request.ref, text)
    return VerbResult(verb="note", ref=request.ref, changed=not request.dry_run, message=text)


async def down(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Stop the engine, or drain it. It is the engine of every environment, so that all must permit it."""
    drains = request.verb == "engine.drain"
    ops.permit(request, actor, EVERYWHERE, ops.config.workspace.get("name") or ops.workspace.name)
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
