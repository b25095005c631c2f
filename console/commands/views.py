"""What a ViewRequest shows: fetch from the engine (or the store), narrow, hand to the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from console.commands import (
    access_tables,
    capacity,
    comparing,
    dataset,
    describe,
    describe_release,
    describe_service,
    health_tables,
    log_views,
    metric_tables,
    people_tables,
    registry_tables,
    tables,
)
from console.commands.refs import name_of
from console.commands.requests import ViewRequest
from console.commands.source import LONG_S, Source
from console.output import Outcome, Text
from state.words import ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context


def show(request: ViewRequest, context: Context) -> Outcome:
    """The outcome of a view. Watches are `watching`'s."""
    if request.args.get("watch"):
        from console.commands.watching import watch

        return watch(request, context)
    view = VIEWS.get(request.view)
    if view is None:
        raise UsageError(f"there is no view {request.view!r}", hint=f"views: {', '.join(VIEWS)}")
    source = Source(context)
    outcome = view(request, source, context)
    if source.notes:
        from dataclasses import replace

        outcome = replace(outcome, notes=(*outcome.notes, *source.notes))
    return outcome


def _in_env(items: Any, env: str | None) -> list[Any]:
    return [item for item in items if env is None or item.get("env") == env]


def _rollouts(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return tables.rollouts(
        source.rollouts(request.args.get("service"), request.env, is_active=bool(request.args.get("active"))),
        request.filter,
    )


def _rollout(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return describe.rollout(source.get(f"/v1/rollouts/{name_of(request.ref)}"))


def _why(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    item = source.get(f"/v1/rollouts/{name_of(request.ref)}")
    said = item.get("why") or f"It is over: {item['state'].replace('_', ' ')}. {item.get('message', '')}".strip()
    shown = {"id": item["id"], "state": item["state"], "pause_reason": item["pause_reason"], "why": said}
    return Outcome(
        "RolloutWhy", [shown], blocks=(Text(said),), names=(f"rollout/{item['id']}",), ref=f"rollout/{item['id']}"
    )


def _runs(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    wanted = request.args.get("pipeline")
    return tables.runs([i for i in source.get("/v1/runs") if wanted in (None, i["pipeline"])], request.filter)


def _run(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return describe.run(source.get(f"/v1/runs/{name_of(request.ref)}"))


def _releases(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    service, env = request.args.get("service"), request.env
    return tables.releases(
        [
            i
            for i in source.get("/v1/releases")
            if service in (None, i["service"])
            and (env is None or any(f"@{env} " in f"{place} " for place in i.get("live_in") or ()))
        ],
        request.filter,
    )


def _release(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return describe_release.release(source.get(f"/v1/releases/{name_of(request.ref)}"))


def _release_diff(request: ViewRequest, source: Source, context: Context) -> Outcome:
    before = source.get(f"/v1/releases/{name_of(request.args['before'])}")
    outcome, differs = describe_release.release_diff(before, source.get(f"/v1/releases/{name_of(request.ref)}"))
    if differs and context.options.detailed_exitcode:
        from dataclasses import replace

        return replace(outcome, exit=ExitCode.CHANGES)
    return outcome


def _alerts(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    items = source.get("/v1/alerts", {"all": 1 if request.args.get("all") else None})
    return health_tables.alerts(_in_env(items, request.env), request.filter)


def _silences(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return health_tables.silences(source.get("/v1/silences"), request.filter)


def _slos(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return health_tables.slos(_in_env(source.get("/v1/slos"), request.env), request.filter)


def _fleet(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return health_tables.fleet(_in_env(source.get("/v1/fleet"), request.env), request.filter)


def _freezes(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    items = [i for i in source.get("/v1/freezes") if request.env is None or i["env"] in (request.env, "*")]
    return people_tables.freezes(items, request.filter)


def _glasses(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    items = _in_env(source.get("/v1/glasses"), request.env)
    wanted = [i for i in items if request.args.get("all") or not i.get("acked_at")]
    return people_tables.glasses(wanted, request.filter)


def _serving(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return health_tables.serving(_in_env(source.get("/v1/serving"), request.env), request.filter)


def _service(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    name = name_of(request.ref)
    rows = [i for i in _in_env(source.get("/v1/fleet"), request.env) if i["service"] == name]
    if not rows:
        where = f" in {request.env}" if request.env else ""
        raise OperationFailed(
            f"there is no service {name!r}{where}", hint="`airboss service list` shows them", code="not_found"
        )
    replicas = [i for i in _in_env(source.get("/v1/serving"), request.env) if i.get("service") == name]
    return describe_service.service(rows, replicas)


def _capacity(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    params = {"env": request.env, "window_s": int(request.args["window_s"])}
    return capacity.capacity(source.get(f"/v1/services/{name_of(request.ref)}/capacity", params))


def _pipelines(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return tables.pipelines(source.get("/v1/pipelines"), request.filter)


def _triggers(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return tables.triggers(source.get("/v1/triggers"), request.filter)


def _pipeline(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    name = name_of(request.ref)
    for item in source.get("/v1/pipelines"):
        if item["name"] == name:
            return describe_release.pipeline(item)
    raise OperationFailed(f"there is no pipeline {name!r}", hint="`airboss pipeline list` shows them", code="not_found")


def _audit(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    params = {"after": request.args.get("after"), "limit": request.args.get("limit"), "ref": request.ref or None}
    items = sorted(source.get("/v1/audit", params), key=lambda i: int(i["id"]))
    if request.env:
        items = [i for i in items if request.env in (i.get("detail", {}).get("env"), i["ref"].removeprefix("env/"))]
    return tables.audit(items, request.filter)


def _audit_verify(_request: ViewRequest, source: Source, _context: Context) -> Outcome:
    found = source.get("/v1/audit/verify", timeout_s=LONG_S)
    says = (
        f"whole: {found['rows']} rows, head {found['head']}"
        if found["ok"]
        else f"BROKEN after {found['rows']} rows: {found['why']}"
    )
    return Outcome(
        "AuditChain",
        [found],
        blocks=(Text(says),),
        names=(found["head"],),
        exit=ExitCode.OK if found["ok"] else ExitCode.FAILED,
    )


def _lineage(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return describe_service.lineage(
        source.get(
            "/v1/lineage",
            {
                "ref": request.ref,
                "forward": 1 if request.args.get("forward") else 0,
                "live": 1 if request.args.get("live") else None,
                "at": request.args.get("at"),
            },
        )
    )


def _hooks(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return people_tables.hooks(source.get("/v1/hooks"), request.filter)


def _deliveries(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    params = {"hook": request.args.get("hook"), "limit": request.args.get("limit")}
    return people_tables.deliveries(source.get("/v1/hooks/deliveries", params), request.filter)


def _access(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    return access_tables.table(source.get("/v1/access"), request.env, request.filter)


def _access_of(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    found = source.get("/v1/access/of", {"user": request.args.get("user")})
    return access_tables.of_user(found, request.env, request.args.get("verb") or "")


def _status(_request: ViewRequest, source: Source, _context: Context) -> Outcome:
    from dataclasses import replace

    status = source.get("/v1/status")
    outcome = describe_service.status(status, source.get("/v1/fleet"), source.get("/v1/alerts"))
    if source.is_offline:
        return replace(outcome, exit=ExitCode.UNREACHABLE, notes=("start the engine with `airboss up -d`",))
    return outcome


VIEWS: dict[str, Callable[[ViewRequest, Source, Context], Outcome]] = {
    "status": _status,
    "fleet": _fleet,
    "service": _service,
    "serving": _serving,
    "capacity": _capacity,
    "service-logs": log_views.of_service,
    "rollouts": _rollouts,
    "rollout": _rollout,
    "why": _why,
    "releases": _releases,
    "release": _release,
    "release-diff": _release_diff,
    "datasets": dataset.datasets,
    "release-compare": comparing.release_compare,
    "registry-models": registry_tables.models,
    "registry-versions": registry_tables.versions,
    "registry-model": registry_tables.model,
    "registry-version": registry_tables.version,
    "runs": _runs,
    "run": _run,
    "log": log_views.of_run,
    "pipelines": _pipelines,
    "triggers": _triggers,
    "pipeline": _pipeline,
    "alerts": _alerts,
    "slos": _slos,
    "audit": _audit,
    "audit-verify": _audit_verify,
    "lineage": _lineage,
    "freezes": _freezes,
    "glasses": _glasses,
    "silences": _silences,
    "hooks": _hooks,
    "deliveries": _deliveries,
    "access": _access,
    "access-of": _access_of,
    "metric": metric_tables.metric,
}
