"""Changing the gateway's table without an engine: the kept table, a route put into it, every living worker told.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from console.commands.admin_socket import request
from console.commands.children import serving_children
from state.backup import write_whole
from state.paths import Paths
from state.words import OperationFailed

REVISION_LEAP = 1000
"""How far ahead of the newest table the changed one is: the engine's own next ones must not replace it unseen."""
READY_TIMEOUT_S = 1.0
Plan = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What one gateway worker said to the table. `revision` 0 and an error when it did not take it."""

    socket: str
    revision: int
    error: str = ""


def apply(paths: Paths, table: Mapping[str, Any], route: Mapping[str, Any]) -> tuple[int, list[Answer]]:
    """Give every living worker the table with `route` in it. Returns its revision and what each worker said."""
    sockets = [str(child["socket"]) for child in serving_children(paths, ("gateway",)) if child["socket"]]
    newest = max([int(table["revision"]), *(_revision_of(path) for path in sockets)])
    changed = {
        **table,
        "revision": newest + REVISION_LEAP,
        "issued_at": time.time(),
        "routes": _with_route(table, route),
    }
    answers = [_read_back(_put(path, changed), route) for path in sockets]
    if not any(not answer.error for answer in answers):
        _keep(paths, changed)
    return int(changed["revision"]), answers


def _with_route(table: Mapping[str, Any], route: Mapping[str, Any]) -> list[Any]:
    key = (route["service"], route["env"])
    return [*(r for r in table["routes"] if (r["service"], r["env"]) != key), dict(route)]


def kept_table(paths: Paths) -> dict[str, Any]:
    """The table that the gateway keeps; the one a living worker serves where the file cannot be read."""
    path = paths.gateway / "table.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(table.get("revision"), int) and isinstance(table.get("routes"), list):
            return dict(table)
        trouble = "it is no routing table"
    except (OSError, ValueError, AttributeError) as error:
        trouble = str(error)
    for child in serving_children(paths, ("gateway",)):
        with contextlib.suppress(OSError, ValueError):
            status, served = request(str(child["socket"]), "GET", "/admin/table")
            if status == 200:
                return dict(json.loads(served))
    raise OperationFailed(
        f"the gateway's kept table {path} cannot be read, and no worker has one: {trouble}",
        hint="`airboss up -d` builds it again from the store",
        code="no_table",
    )


def fresh_route(plan: Plan, table: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The plan's route with the replicas that answer now, and True when none does.

    The plan is a moment old and a replica may have been replaced since; the kept table may know its successor.
    """
    route = dict(plan["route"])
    release = plan["to_release"]
    known: dict[str, str] = {}
    for source in (route, *(r for r in table["routes"] if (r["service"], r["env"]) == (plan["service"], plan["env"]))):
        for backend in source["backends"]:
            if backend["release_id"] == release:
                known |= {str(spawn): str(address) for spawn, address in backend["replicas"]}
    ready = {spawn: address for spawn, address in known.items() if is_ready(address)}
    chosen = ready or known
    backends = [
        {**b, "replicas": [list(pair) for pair in chosen.items()]} if b["track"] == "stable" else b
        for b in route["backends"]
    ]
    # What the plan does not speak of (limits, sessions, safety) stays as it is served.
    served: dict[str, Any] = next(
        (r for r in table["routes"] if (r["service"], r["env"]) == (plan["service"], plan["env"])), {}
    )
    return {**served, **route, "backends": backends}, not ready


def is_ready(address: str) -> bool:
    """The replica at `address` answers that it can take requests; one that is elsewhere is taken at its word."""
    if not address.startswith("unix:"):
        return True
    try:
        return request(address.removeprefix("unix:"), "GET", "/ready", timeout_s=READY_TIMEOUT_S)[0] == 200
    except OSError:
        return False


def _keep(paths: Paths, table: Mapping[str, Any]) -> None:
    """No worker took the table: leave it where the next one to start looks. Raises OperationFailed."""
    try:
        write_whole(paths.gateway / "table.json", json.dumps(table, sort_keys=True))
    except OSError as error:
        raise OperationFailed(
            f"the table could not be kept for the gateway: {error}", hint="free disk space and run it again"
        ) from error


def _revision_of(path: str) -> int:
    try:
        status, body = request(path, "GET", "/admin/table")
        return int(json.loads(body)["revision"]) if status == 200 else 0
    except (OSError, ValueError):
        return 0


def _read_back(answer: Answer, route: Mapping[str, Any]) -> Answer:
    """A worker has taken the table once it says so itself, and serves the route's weights."""
    if answer.error:
        return answer
    try:
        status, body = request(answer.socket, "GET", "/admin/table")
        table = json.loads(body)
        served = next(r for r in table["routes"] if (r["service"], r["env"]) == (route["service"], route["env"]))
        has, wanted = _weights(served), _weights(route)
        if status == 200 and has == wanted:
            return answer
        trouble = f"it says that it serves {has}, not {wanted}"
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        trouble = f"it took the table and could not be asked again: {error or type(error).__name__}"
    return Answer(answer.socket, 0, trouble)


def _weights(route: Mapping[str, Any]) -> dict[str, int]:
    return {str(b["release_id"]): int(b["weight"]) for b in route["backends"] if b["weight"]}


def _put(path: str, table: Mapping[str, Any]) -> Answer:
    try:
        status, body = request(path, "PUT", "/admin/table", json.dumps(table))
        said = json.loads(body)
        if status == 200:
            return Answer(path, int(said["revision"]))
        return Answer(path, 0, str(said["error"]["message"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Answer(path, 0, str(error) or type(error).__name__)
