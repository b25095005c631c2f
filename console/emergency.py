"""`rollback --emergency`: back to the last good release without an engine, through the gateway's own admin sockets.

The engine keeps a plan ready in `.airboss/rollback/SERVICE@ENV.json`. Applying it: take the table that the gateway keeps,
start the release's replicas where none answers, put the plan's route in it under a revision that the engine's own next ones
do not reach, give it to every living worker and read it back, and leave a record in `.airboss/spill/` that the engine imports when it is back. Traffic first, then the record.
Standard library only: this must work when nothing else does.
"""

from __future__ import annotations

import errno
import getpass
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.admin_socket import request
from console.commands.cold_start import Started, start_all
from console.commands.switching import Answer, Plan, apply, fresh_route, kept_table
from console.output import Outcome, Table, Text
from state.backup import write_whole
from state.paths import Paths
from state.words import Conflict, Denied, ExitCode, OperationFailed, Unreachable, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

ENGINE_TIMEOUT_S = 1.0
START_TIMEOUT_S = 300.0
"""How long a cold release may take to load, unless --timeout says otherwise."""


def run(context: Context, *, service: str, env: str | None, force: bool) -> Outcome:
    """Apply the kept plan for `service`. Asks `y` on a terminal, wants --yes elsewhere."""
    paths = context.paths
    plan = read_plan(paths, service, env)
    service, env = str(plan["service"]), str(plan["env"])
    if not force and not context.options.dry_run:
        _refuse_beside_an_engine(paths, service, env)
    if plan.get("cluster"):
        from console.emergency_cluster import roll_back

        return roll_back(context, plan, force=force)
    table = kept_table(paths)
    route, cold = fresh_route(plan, table)
    lines = what_changes(_served(table, plan), route)
    if context.options.dry_run:
        return outcome(plan, lines, [], "would roll back", route, exit=ExitCode.OK, cold=cold)
    demand_writable(context)
    confirm(context, plan, lines)
    started: list[Started] = []
    if cold and plan.get("start"):
        started, route = _warmed(context, plan, table, route, force=force)
        cold = not started
    if cold:
        diagnostics.note(
            f"no replica of {plan['to_release']} answers ready; the gateway will answer 503 until one does"
        )
    revision, answers = apply(paths, table, route)
    before = _served(table, plan)
    spill(paths, act_of(context, plan, before=before, revision=revision, answers=answers, started=started))
    taken = [a for a in answers if not a.error]
    said = f"rolled back: {service} in {env} is {plan['to_release']}, table revision {revision}, {len(taken)} of {len(answers)} workers"
    if answers and len(taken) < len(answers):
        failed = "; ".join(f"{a.socket}: {a.error}" for a in answers if a.error)
        raise OperationFailed(
            f"{len(answers) - len(taken)} of {len(answers)} gateway workers did not take the table: {failed}",
            hint="run it again; a worker that does not answer can be killed, its successor takes the kept table",
        )
    if not answers:
        raise Unreachable(
            "no gateway worker is alive; the table is kept, and the next one to start serves it",
            hint="`airboss up -d` starts the engine, which starts the gateway",
        )
    return outcome(plan, lines, answers, said, route, exit=ExitCode.OK, cold=cold)


def _warmed(
    context: Context, plan: Plan, table: Mapping[str, Any], route: dict[str, Any], *, force: bool
) -> tuple[list[Started], dict[str, Any]]:
    """Capacity before traffic: the replicas started, and the route with them. With `force`, traffic may move to none."""
    diagnostics.note(f"no replica of {plan['to_release']} answers; starting {len(plan['start'])} from {plan['start'][0]['payload']['bundle']}")  # fmt: skip
    try:
        started = start_all(context.paths, plan, context.options.timeout_s or START_TIMEOUT_S)
    except OperationFailed:
        if not force:
            raise
        return [], route
    warm = {**plan["route"], "backends": [
        {**b, "replicas": [[one.spawn_id, one.address] for one in started]} if b["track"] == "stable" else b
        for b in plan["route"]["backends"]
    ]}  # fmt: skip
    return started, fresh_route({**plan, "route": warm}, table)[0]


def read_plan(paths: Paths, service: str, env: str | None) -> Plan:
    """The plan kept for a service. Raises UsageError when several environments have one, OperationFailed when none has."""
    # Compared as text, not as a pattern: a name with a star or a slash in it is nobody's.
    kept = sorted(paths.rollback.glob("*@*.json"))
    found = [path for path in kept if path.stem == f"{service}@{env or path.stem.partition('@')[2]}"]
    if len(found) > 1:
        envs = ", ".join(path.stem.partition("@")[2] for path in found)
        raise UsageError(
            f"{service} has a rollback plan in several environments: {envs}", hint="add --env ENV", code="env"
        )
    if not found:
        others = ", ".join(path.stem for path in kept) or "none"
        raise OperationFailed(
            f"no rollback plan is kept for {service}{f' in {env}' if env else ''}",
            hint=f"plans are kept for: {others}; one is made once a release has a verified one before it",
            code="no_plan",
        )
    try:
        plan = json.loads(found[0].read_text(encoding="utf-8"))
        missing = {"service", "env", "to_release", "route"} - set(plan)
        if missing or sum(b["weight"] for b in plan["route"]["backends"] if b["track"] == "stable") != 100:
            raise ValueError(f"it lacks {', '.join(sorted(missing)) or 'a stable track with 100 %'}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationFailed(
            f"the rollback plan {found[0]} cannot be used: {error}", hint="`airboss up -d`, then `airboss rollback`"
        ) from error
    return dict(plan)


def demand_writable(context: Context) -> None:
    """Raise Denied in a console that only reads."""
    if context.is_read_only:
        raise Denied(
            "rollback changes something, and this console is read-only",
            code="read_only",
            hint="leave --read-only (AIRBOSS_READ_ONLY) out",
        )


def _refuse_beside_an_engine(paths: Paths, service: str, env: str) -> None:
    try:
        status, _ = request(str(paths.live_engine_socket()), "GET", "/v1/health", timeout_s=ENGINE_TIMEOUT_S)
    except OSError:
        return
    if status == 200:
        raise Conflict(
            "an engine answers; it should do the rollback",
            hint=f"`airboss rollback {service} --env {env}`; add --force if the engine cannot",
            code="engine_is_up",
        )


def _served(table: Mapping[str, Any], plan: Plan) -> Mapping[str, Any] | None:
    return next((r for r in table["routes"] if (r["service"], r["env"]) == (plan["service"], plan["env"])), None)


def what_changes(before: Mapping[str, Any] | None, route: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(release, traffic now, then) of everything that `route` names or that has some."""
    had = {b["release_id"]: b["weight"] for b in before["backends"]} if before else {}
    want = {b["release_id"]: b["weight"] for b in route["backends"]}
    return [
        (release, f"{had.get(release, 0)} %", f"{want.get(release, 0)} %") for release in dict.fromkeys([*had, *want])
    ]


def _plan_table(plan: Plan, lines: list[tuple[str, str, str]]) -> Table:
    return Table(
        ("RELEASE", "TRAFFIC NOW", "THEN"),
        lines,
        frozenset({1, 2}),
        title=f"{plan['service']} in {plan['env']}, without the engine",
    )


def confirm(context: Context, plan: Plan, lines: list[tuple[str, str, str]]) -> None:
    """Ask `y`, unless it was given."""
    if context.options.yes:
        return
    if not context.can_ask:
        raise UsageError("rollback --emergency must be confirmed", hint="add --yes", code="confirm")
    import sys

    from console.commands.confirming import asked_yes
    from console.output import Output

    Output("table", sys.stderr).show(Outcome("Plan", [], blocks=(_plan_table(plan, lines),)))
    if not asked_yes(f"roll {plan['service']} in {plan['env']} back to {plan['to_release']}?"):
        raise UsageError("not confirmed; nothing was done", code="not_confirmed")


def act_of(
    context: Context,
    plan: Plan,
    *,
    before: Mapping[str, Any] | None,
    revision: int,
    answers: list[Answer],
    started: list[Started],
) -> dict[str, Any]:
    """The record of what was done, as the next engine imports it."""
    return {
        "at": time.time(),
        "actor": f"user:{_user()}",
        "uid": os.getuid(),
        "verb": "rollback",
        "service": plan["service"],
        "env": plan["env"],
        "to_release": plan["to_release"],
        "reason": context.options.reason,
        "table_revision": revision,
        "before": before,
        "workers": [{"socket": a.socket, "revision": a.revision, "error": a.error} for a in answers],
        "started": [asdict(one) for one in started],
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid:{os.getuid()}"


def spill(paths: Paths, record: Mapping[str, Any]) -> None:
    """Leave the record for the engine. Traffic is moved already, so a disk that cannot take it stops nothing."""
    directory = paths.state / "spill"
    name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(record['at']))}.{time.time_ns() % 10**9:09d}.json"
    text = json.dumps(record, sort_keys=True)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        try:
            write_whole(directory / name, text)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # The reserve is there for this.
            paths.reserve.unlink(missing_ok=True)
            write_whole(directory / name, text)
    except OSError as error:
        diagnostics.note(f"traffic is moved, but the record could not be written ({error}); keep this line:")
        diagnostics.say(text)


def outcome(
    plan: Plan,
    lines: list[tuple[str, str, str]],
    answers: list[Answer],
    said: str,
    route: Mapping[str, Any],
    *,
    exit: ExitCode,
    cold: bool,
    more: tuple[Text, ...] = (),
) -> Outcome:
    """What the command prints."""
    item = {
        "service": plan["service"],
        "env": plan["env"],
        "to_release": plan["to_release"],
        "message": said,
        "cold": cold,
        "route": dict(route),
        "plan_made_at": plan.get("made_at"),
        "workers": [{"socket": a.socket, "revision": a.revision} for a in answers],
    }
    return Outcome(
        "EmergencyRollback",
        [item],
        blocks=(_plan_table(plan, lines), *more, Text(said)),
        exit=exit,
        names=(f"service/{plan['service']}@{plan['env']}",),
        ref=f"service/{plan['service']}",
    )
