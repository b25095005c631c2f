"""The engine's HTTP API on its Unix socket: readers, the event stream, and the one door for verbs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel, ValidationError
from sqlmodel import Session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from engine.access import Actor
from engine.api.lines import MEDIA_TYPE, event_lines, snapshot_lines, tags_of
from engine.api.reader import Reader
from engine.api.schemas import DifferenceView, VerbRequest
from engine.api.views import catalogue, comparing, drills, hooks, metrics, people, records, rollouts
from engine.api.views.access import access_table, user_access
from engine.api.views.asking import asker
from engine.api.views.capacity import capacity_views
from engine.api.views.replica_logs import replica_logs
from engine.operations.desk import Desk
from engine.operations.door import do
from engine.pipelines.catalogue import pipeline_of
from state.models import Release, Run
from state.words import AirbossError, Conflict, Denied, GateRefused, TimedOut, Unreachable, UsageError

log = logging.getLogger("airboss.api")

_STATUS: tuple[tuple[type[AirbossError], int], ...] = (
    (UsageError, 400),
    (Denied, 403),
    (Conflict, 409),
    (GateRefused, 422),
    (Unreachable, 502),
    (TimedOut, 504),
)


_MOST = 2**63 - 1
"""The largest whole number that SQLite can be asked about."""


def make_app(reader: Reader, desk: Desk) -> Starlette:
    """The application. Every answer is JSON; every error `{"error": …}` with the exit code a script will have."""
    return Starlette(routes=_routes(reader, desk), exception_handlers={AirbossError: _refused, Exception: _broke})


def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, AirbossError):
        return _broke(request, error)
    status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
    return JSONResponse({"error": error.as_dict()}, status_code=status)


def _broke(request: Request, error: Exception) -> Response:
    log.error("%s %s broke", request.method, request.url.path, exc_info=error)
    said = AirbossError(
        f"the engine met an error it did not expect: {type(error).__name__}: {error}",
        hint="its log has the whole story: .airboss/logs/engine.log",
        code="internal",
    )
    return JSONResponse({"error": said.as_dict()}, status_code=500)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _answers(read: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return JSONResponse(_plain(await read(request)))

    return endpoint


def _routes(reader: Reader, desk: Desk) -> list[Route]:
    store = reader.store

    async def health(request: Request) -> Any:
        return {"ok": True, "version": reader.version, "pid": reader.pid}

    async def status(request: Request) -> Any:
        return await reader.status()

    async def snapshot(request: Request) -> Response:
        found = await reader.snapshot()
        if MEDIA_TYPE not in request.headers.get("accept", ""):
            return JSONResponse(_plain(found))
        have = tags_of(request.query_params.get("have", ""))
        return Response(await asyncio.to_thread(snapshot_lines, found, have), media_type=MEDIA_TYPE)

    async def fleet(request: Request) -> Any:
        return await store.read(reader.fleet)

    async def rollout_list(request: Request) -> Any:
        service, env = request.query_params.get("service", ""), request.query_params.get("env", "")
        return await store.read(
            lambda s: rollouts.rollout_views(s, reader.config, live=reader.live_p95, service=service, env=env)
        )

    async def rollout(request: Request) -> Any:
        return await reader.rollout(request.path_params["id"])

    async def run_list(request: Request) -> Any:
        return await store.read(records.run_views)

    async def run(request: Request) -> Any:
        return await store.read(lambda s: _run(s, request.path_params["id"]))

    async def run_log(request: Request) -> Any:
        offset = _number(request, "offset", 0)
        return await reader.stage_log(request.path_params["id"], request.path_params["stage"], offset)

    async def release_list(request: Request) -> Any:
        return await store.read(records.release_views)

    async def release(request: Request) -> Any:
        return await store.read(lambda s: _release(s, request.path_params["id"]))

    async def alerts(request: Request) -> Any:
        return await reader.alert_history() if request.query_params.get("all") else reader.alerts()

    async def silences(request: Request) -> Any:
        return [
            {
                "id": s.id,
                "matchers": dict(s.matchers),
                "created_by": s.created_by,
                "reason": s.reason,
                "ends_at": s.ends_at,
            }
            for s in reader.observer.book.silences()
        ]

    async def slos(request: Request) -> Any:
        return reader.slos()

    async def serving(request: Request) -> Any:
        return reader.serving()

    async def service_logs(request: Request) -> Any:
        asked = request.query_params
        lines = max(1, _number(request, "tail", 50))
        name, env, replica = request.path_params["name"], asked.get("env", ""), asked.get("replica", "")
        here = await store.read(lambda s: replica_logs(s, reader.paths.logs, name, env, replica, lines))
        return [*here, *await reader.pod_logs(name, env, replica, lines)]

    async def capacity(request: Request) -> Any:
        name, env = request.path_params["name"], request.query_params.get("env", "")
        window_s = float(_number(request, "window_s", 300))
        return await store.read(lambda s: capacity_views(s, reader.config, reader.load, name, env, window_s))

    async def audit_list(request: Request) -> Response:
        after, before, limit = _number(request, "after", 0), _number(request, "before", 0), _limit(request, 200, 5000)
        ref = request.query_params.get("ref", "").replace("/", ":", 1)
        newest = "after" not in request.query_params
        found = await store.read(
            lambda s: rollouts.events(s, ref=ref, after=after, before=before, limit=limit, newest=newest)
        )
        if MEDIA_TYPE in request.headers.get("accept", ""):
            return Response(await asyncio.to_thread(event_lines, found), media_type=MEDIA_TYPE)
        return JSONResponse(_plain(found))

    async def audit_verify(request: Request) -> Any:
        state = await reader.chain.verify()
        return {"ok": state.is_whole, "rows": state.rows, "head": state.head, "why": state.why}

    async def drill_list(request: Request) -> Any:
        return await store.read(drills.drill_views)

    async def state_diff(request: Request) -> Any:
        return [DifferenceView(**asdict(one)) for one in await reader.restored.differences()]

    async def lineage(request: Request) -> Any:
        forward = request.query_params.get("forward", "0") not in ("", "0", "false")
        ref, live = request.query_params.get("ref", ""), request.query_params.get("live", "0") == "1"
        at = float(_number(request, "at", 0)) or None
        return await store.read(lambda s: records.lineage(s, ref, forward=forward, live=live, at=at))

    async def triggers(request: Request) -> Any:
        return await store.read(reader.triggers.views) if reader.triggers else []

    async def pipelines(request: Request) -> Any:
        return await asyncio.to_thread(lambda: [_pipeline(reader, name) for name in reader.config.pipeline])

    async def registry(request: Request) -> Any:
        return await reader.registry_aliases(request.path_params["model"])

    async def access(request: Request) -> Any:
        return access_table(reader.config)

    async def access_of(request: Request) -> Any:
        user = request.query_params.get("user", "")
        return user_access(reader.config, Actor.of_user(user) if user else Actor.of_uid(request.state.peer.uid))

    async def freezes(request: Request) -> Any:
        return await store.read(lambda s: people.freeze_views(s, reader.config))

    async def glasses(request: Request) -> Any:
        return await store.read(people.glass_views)

    async def hook_list(request: Request) -> Any:
        return await store.read(lambda s: hooks.hook_views(s, reader.config))

    async def delivery_list(request: Request) -> Any:
        hook, limit = request.query_params.get("hook", ""), _limit(request, 100, 1000)
        if hook and hook not in reader.config.hook:
            raise UsageError(f"there is no hook {hook!r}", hint="`airboss hook list` shows them", code="no_hook")
        return await store.read(lambda s: hooks.delivery_views(s, hook, limit))

    async def verb(request: Request) -> Any:
        try:
            wish = VerbRequest.model_validate_json(await request.body())
        except ValidationError as error:
            raise UsageError(f"not a verb request: {error.errors()[0]['msg']}", code="request") from error
        return await do(desk, wish, Actor.of_uid(request.state.peer.uid))

    async def demo(request: Request) -> Any:
        reader.demo = dict(await request.json()) if reader.config.is_demo else {}
        reader.events.publish("engine/demo", str(reader.demo.get("message", "")))
        return {"ok": True}

    async def events(request: Request) -> Response:
        after = _number(request, "after", reader.events.seq)

        async def lines() -> AsyncIterator[str]:
            async for event in reader.events.after(after):
                yield f"data: {json.dumps(event.model_dump(mode='json'))}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    readers: dict[str, Callable[[Request], Awaitable[Any]]] = {
        "/v1/health": health,
        "/v1/status": status,
        "/v1/fleet": fleet,
        "/v1/rollouts": rollout_list,
        "/v1/rollouts/{id}": rollout,
        "/v1/runs": run_list,
        "/v1/runs/{id}": run,
        "/v1/runs/{id}/log/{stage}": run_log,
        "/v1/releases": release_list,
        "/v1/releases/{id}": release,
        "/v1/alerts": alerts,
        "/v1/silences": silences,
        "/v1/slos": slos,
        "/v1/serving": serving,
        "/v1/services/{name}/capacity": capacity,
        "/v1/services/{name}/logs": service_logs,
        "/v1/audit/verify": audit_verify,
        "/v1/drills": drill_list,
        "/v1/state/diff": state_diff,
        "/v1/lineage": lineage,
        "/v1/freezes": freezes,
        "/v1/glasses": glasses,
        "/v1/hooks": hook_list,
        "/v1/hooks/deliveries": delivery_list,
        "/v1/access": access,
        "/v1/access/of": access_of,
        "/v1/pipelines": pipelines,
        "/v1/triggers": triggers,
        "/v1/registry/{model}": registry,
        **catalogue.readers(reader),
        **comparing.readers(reader),
        **metrics.readers(reader),
    }
    return [
        *(Route(path, _answers(read)) for path, read in readers.items()),
        Route("/v1/snapshot", snapshot),
        Route("/v1/audit", audit_list),
        Route("/v1/verbs", _answers(verb), methods=["POST"]),
        Route("/v1/ask", _answers(asker(desk)), methods=["POST"]),
        Route("/v1/demo", _answers(demo), methods=["PUT"]),
        Route("/v1/events", events),
    ]


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    try:
        return max(-_MOST, min(int(text), _MOST))
    except ValueError:
        raise UsageError(f"{name} must be a whole number, not {text!r}", code="query") from None


def _limit(request: Request, default: int, most: int) -> int:
    """How many rows are asked for: at least one, for SQLite takes a negative limit for none at all."""
    return max(1, min(_number(request, "limit", default), most))


def _run(session: Session, run_id: str) -> Any:
    row = session.get(Run, run_id)
    if row is None:
        raise UsageError(f"there is no run {run_id}", hint="`airboss run list` shows them", code="no_run")
    return records.run_view(session, row)


def _release(session: Session, release_id: str) -> Any:
    row = session.get(Release, release_id)
    if row is None:
        raise UsageError(
            f"there is no release {release_id}", hint="`airboss release list` shows them", code="no_release"
        )
    return records.release_view(session, row)


def _pipeline(reader: Reader, name: str) -> dict[str, Any]:
    shown = {"name": name, "kind": reader.config.pipeline[name].kind}
    try:
        pipeline, service = pipeline_of(reader.config, name, reader.paths.root)
    except UsageError as error:
        return {**shown, "service": "", "stages": [], "params": {}, "trouble": error.message}
    params = {**{param.name: param.default for param in pipeline.params}, **pipeline.values}
    needs = {stage.name: list(stage.needs) for stage in pipeline.stages}
    return {**shown, "service": service, "stages": list(needs), "needs": needs, "params": params, "trouble": ""}
