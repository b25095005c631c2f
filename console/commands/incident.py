"""`export incident`: what happened in a stretch of time, from the record: a timeline, alerts, rollouts with their verdicts, numbers.

Everything in it is the store's own word, so it can be written in the hour itself, afterwards, or with no engine. Pure but for `write`.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from console.commands.format import NONE, clock, percent, span
from console.output import Outcome, Text, plain
from state.backup import write_whole
from state.words import OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

Item = Mapping[str, Any]
PAGE = 5000
SINCE_S = 7200.0
"""How far back a report goes that the console writes."""
FORWARD = {"step_applying", "promoting", "verifying", "completed"}


def export(
    context: Context, *, since_s: float, until_s: float, service: str | None, env: str | None, out: Path | None
) -> Outcome:
    """Gather the stretch and write it: Markdown on stdout, or Markdown and JSON into the directory `out`."""
    from console.commands.source import Source

    if until_s >= since_s:
        raise UsageError("--until must be later than --since", hint="such as --since 3h --until 1h: both before now")
    now = time.time()
    found = gather(Source(context), now - since_s, now - until_s, service=service or "", env=env or "")
    if out is None:
        return Outcome("Incident", [found], blocks=(Text(markdown(found).rstrip()),), names=(found["title"],))
    paths = write(found, out)
    return Outcome("Incident", [{**found, "paths": list(paths)}], blocks=(Text("\n".join(paths)),), names=paths)


def write(found: Item, out: Path) -> tuple[str, str]:
    """Write the report as Markdown and JSON into the directory `out`; returns both paths. Raises OperationFailed."""
    stem = f"incident-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(found['until']))}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / f"{stem}.md", markdown(found))
        write_whole(out / f"{stem}.json", json.dumps(plain(found), indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise OperationFailed(f"{out} cannot be written: {error}", hint="name another directory with --out") from error
    return str(out / f"{stem}.md"), str(out / f"{stem}.json")


class Answers(Protocol):
    """The engine's client, or whoever answers in its place."""

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON at `path`."""


def gather(source: Answers, since: float, until: float, *, service: str, env: str) -> dict[str, Any]:
    """What the record has of [since, until], of one service and environment or of all."""
    rollouts = [
        one
        for one in source.get("/v1/rollouts", {"service": service or None, "env": env or None})
        if one["created_at"] <= until and (one.get("finished_at") or until) >= since
    ]
    names = {f"rollout:{one['id']}": one for one in rollouts}
    alerts = [
        one
        for one in source.get("/v1/alerts", {"all": 1})
        if one["starts_at"] <= until
        and (one.get("ends_at") or until) >= since
        and one["service"] in ("", service or one["service"])
        and one["env"] in ("", env or one["env"])
    ]
    events = [
        one
        for one in _audit(source)
        if since <= one["at"] <= until and (not (service or env) or _concerns(one, names, service, env))
    ]
    try:
        slos = [one for one in source.get("/v1/slos") if one["service"] in ("", service or one["service"])]
    except Exception as error:  # only a running engine knows them: the rest is worth having all the same
        slos = [{"unknown": str(error)}]
    where = " in ".join(filter(None, (service, env))) or "all services"
    return {
        "title": f"{where}, {clock(since)} to {clock(until)}",
        "since": since, "until": until, "service": service, "env": env,
        "alerts": sorted(alerts, key=lambda one: one["starts_at"]),
        "rollouts": sorted(rollouts, key=lambda one: one["created_at"]),
        "events": events,
        "slos": slos,
        "actions": list(script_lines(events, names)),
    }  # fmt: skip


def _audit(source: Answers) -> list[Item]:
    """The newest audit rows, oldest first."""
    return sorted(source.get("/v1/audit", {"limit": PAGE}), key=lambda one: int(one["id"]))


def _concerns(event: Item, rollouts: Mapping[str, Item], service: str, env: str) -> bool:
    detail = event.get("detail") or {}
    if event["ref"].startswith("rollout:"):
        return event["ref"] in rollouts
    is_of_service = not service or detail.get("service") == service or event["ref"] == f"service:{service}"
    of_env = detail.get("env") or (event["ref"].partition(":")[2] if event["ref"].startswith("env") else "")
    is_of_env = not env or of_env in ("", env)
    return (is_of_service and is_of_env) or event["ref"].startswith(("engine:", "alert:"))


def script_lines(events: Sequence[Item], rollouts: Mapping[str, Item]) -> Iterator[str]:
    """What people did, as lines of a script; what has no line of its own is a comment."""
    for event in events:
        if str(event["actor"]).startswith("user:"):
            told = {**event, "reason": _one_line(event.get("reason", ""))}
            said = f" --reason {shlex.quote(told['reason'])}" if told["reason"] else ""
            yield f"# {clock(event['at'])} {_one_line(event['actor'])}"
            yield _line(told, rollouts.get(event["ref"], {}), said)


def _line(event: Item, rollout: Item, said: str) -> str:
    kind, _, name = str(event["ref"]).partition(":")
    detail, action = event.get("detail") or {}, str(event["action"])
    service, env = shlex.quote(str(rollout.get("service", ""))), shlex.quote(str(rollout.get("env", "")))
    if action == "rollout.planned":
        service, env = shlex.quote(str(detail.get("service"))), shlex.quote(str(detail.get("env")))
        return f"deploy {service} {shlex.quote(str(detail.get('to_release')))} --env {env} --yes --confirm-name {service}{said}"
    if kind == "rollout" and action.startswith("rollout.") and rollout:
        to, was = action.removeprefix("rollout."), str(detail.get("from", ""))
        if to == "rolling_back":
            return f"rollback {service} --env {env} --yes{said}"
        if to == "paused":
            return f"rollout pause {name}{said}"
        if was == "paused":
            return f"rollout resume {name} --yes{said}"
        if to in FORWARD:
            return f"rollout promote {name} --yes{said}"
    if action in ("alert.ack", "run.cancel", "run.retry"):
        return f"{action.replace('.', ' ')} {name}{said}"
    if action == "run.start":
        return f"pipeline run {shlex.quote(str(detail.get('pipeline', '')))}{said}"
    if action == "note":
        return f"note {kind}/{name} {shlex.quote(str(event.get('reason', '')))}"
    return f"# {action} {kind}/{name}" + (f": {event['reason']}" if event.get("reason") else "")


def markdown(found: Item) -> str:
    """The report as Markdown; nothing of somebody else's text is taken for markup."""
    parts = [f"# Incident: {_plain(found['title'])}", ""]
    parts += ["## Alerts", "", *_alerts(found["alerts"]), ""]
    parts += ["## Rollouts", "", *_rollouts(found["rollouts"]), ""]
    parts += ["## Service levels now", "", *_slos(found["slos"]), ""]
    parts += ["## Timeline", "", *_timeline(found["events"]), ""]
    parts += ["## What people did, as a script", "", "```", *found["actions"], "```", ""]
    return "\n".join(parts)


def _alerts(alerts: Sequence[Item]) -> list[str]:
    if not alerts:
        return ["None."]
    rows = ["| began | ended | severity | alert | where | acked by | |", "|---|---|---|---|---|---|---|"]
    for one in alerts:
        where = " in ".join(filter(None, (one["service"], one["env"]))) or NONE
        ended = clock(one["ends_at"]) if one.get("ends_at") else "goes on"
        rows.append(
            f"| {clock(one['starts_at'])} | {ended} | {one['severity']} | {_plain(one['name'])} | {_plain(where)} "
            f"| {_plain(one.get('acked_by') or 'nobody')} | {_plain(one['summary'])} |"
        )
    return rows


def _rollouts(rollouts: Sequence[Item]) -> list[str]:
    if not rollouts:
        return ["None."]
    lines = []
    for one in rollouts:
        lasted = (one.get("finished_at") or one["state_since"]) - one["created_at"]
        lines.append(
            f"- **{one['id']}** {_plain(one['service'])} in {_plain(one['env'])}: {one.get('from_release') or 'nothing'} → "
            f"{one['to_release']}, {one['state'].replace('_', ' ')} after {span(lasted)}, by {_plain(one['created_by'])}"
        )
        for step in one.get("steps") or ():
            if verdict := step.get("verdict"):
                lines.append(f"  - step {step['idx'] + 1}: {verdict['kind']}: {_plain(verdict['sentence'])}")
        if one.get("message"):
            lines.append(f"  - {_plain(one['message'])}")
    return lines


def _slos(slos: Sequence[Item]) -> list[str]:
    if slos and "unknown" in slos[0]:
        return [f"Unknown: {_plain(slos[0]['unknown'])}"]
    if not slos:
        return ["None."]
    rows = ["| service | environment | good | budget left | requests | bad |", "|---|---|---|---|---|---|"]
    for one in slos:
        rows.append(
            f"| {_plain(one['service'])} | {_plain(one['env'])} | {percent(one.get('sli'))} | {percent(one.get('budget_left'))} "
            f"| {one.get('requests', NONE)} | {one.get('errors', NONE)} |"
        )
    return rows


def _timeline(events: Sequence[Item]) -> list[str]:
    if not events:
        return ["Nothing was recorded."]
    rows = ["| at | who | what | why |", "|---|---|---|---|"]
    for one in events:
        detail = one.get("detail") or {}
        why = one.get("reason") or detail.get("message") or ""
        rows.append(
            f"| {clock(one['at'])} | {_plain(one['actor'])} | {_plain(one['action'])} {_plain(one['ref'].replace(':', '/', 1))} | {_plain(why)} |"
        )
    return rows


def _plain(text: object) -> str:
    """On one line, with what Markdown and HTML would take for theirs made harmless."""
    made = _one_line(text)
    for mark in ("\\", "|", "`", "*", "_", "[", "]", "<", ">", "#"):
        made = (
            made.replace(mark, f"\\{mark}")
            if mark not in "<>"
            else made.replace(mark, {"<": "&lt;", ">": "&gt;"}[mark])
        )
    return made


def _one_line(text: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text))
