"""Status and fleet when no engine runs: what the store says should be, and which processes are alive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from console.commands.children import serving_children
from state.paths import Paths
from state.words import TERMINAL_STATES

Rows = Callable[..., list[dict[str, Any]]]


def status(rows: Rows, paths: Paths) -> dict[str, Any]:
    """One screen of health, as far as it can be known without an engine."""
    chain = rows("SELECT count(*) AS n, max(id) AS last FROM audit")[0]
    head = rows("SELECT hash FROM audit WHERE id = ?", chain["last"]) if chain["last"] else []
    children = serving_children(paths)
    kinds = [child["kind"] for child in children]
    return {
        "version": "",
        "pid": 0,
        "workspace": str(paths.root),
        "name": paths.root.name,
        "is_demo": False,
        "state": "down",
        "started_at": None,
        "gateway": "",
        "gateway_workers": None,
        "gateway_ready": kinds.count("gateway"),
        "replicas": None,
        "replicas_ready": kinds.count("model"),
        "adapters": {},
        "audit_rows": chain["n"],
        "audit_head": head[0]["hash"] if head else "",
        "audit_ok": None,
        "no_one_is_paged": False,
        "backup_at": _newest_backup(paths),
        "drill": _newest_drill(rows),
        "demo": {},
    }


def _newest_drill(rows: Rows) -> dict[str, Any] | None:
    sql = "SELECT at, detail FROM audit WHERE ref >= 'drill:' AND ref < 'drill;' AND action = 'drill.finish' ORDER BY id DESC LIMIT 1"
    return next(({"at": row["at"], **row["detail"]} for row in rows(sql)), None)


def _newest_backup(paths: Paths) -> float | None:
    from state.backup_sets import backups
    from state.config import load_config
    from state.words import AirbossError

    try:
        to = load_config(paths.root).state.backup.to
    except AirbossError:
        to = None
    found = backups(paths.backups, *([to] if to else []))
    return found[-1].made_at if found else None


def fleet(rows: Rows) -> list[dict[str, Any]]:
    """Services by environment: what each track should serve."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    leases = {row["name"]: row for row in rows("SELECT * FROM lease WHERE ends_at > ?", time.time())}
    for track in rows("SELECT * FROM track ORDER BY service, env, track DESC"):
        key = (track["service"], track["env"])
        frozen = leases.get(f"freeze/{track['env']}")
        held = leases.get(f"hold/{key[1]}/{key[0]}") or leases.get(f"hold/{key[1]}")
        row = found.setdefault(
            key,
            {
                "service": key[0],
                "env": key[1],
                "release_id": None,
                "tracks": [],
                "rps": None,
                "p95_ms": None,
                "error_ratio": None,
                "budget_left": None,
                "coverage": None,
                "rollout_id": None,
                "phase": "",
                "alerts": None,
                "held_by": held["holder"] if held else "",
                "held_until": held["ends_at"] if held else None,
                "frozen": frozen["reason"] or "frozen" if frozen else "",
            },
        )
        row["tracks"].append(
            {
                "track": track["track"],
                "release_id": track["release_id"],
                "weight": track["weight"],
                "measured_pct": None,
                "replicas": track["replicas"],
                "ready": None,
                "requests": None,
                "errors": None,
                "p95_ms": None,
            }
        )
        if track["track"] == "stable":
            row["release_id"] = track["release_id"]
    over = [state.value for state in TERMINAL_STATES]
    marks = ",".join("?" * len(over))
    for rollout in rows(f"SELECT * FROM rollout WHERE state NOT IN ({marks})", *over):
        if place := found.get((rollout["service"], rollout["env"])):
            place["rollout_id"], place["phase"] = rollout["id"], rollout["state"]
    return list(found.values())


def freezes(rows: Rows) -> list[dict[str, Any]]:
    """Freezes and holds that people began. The windows of airboss.toml are the engine's to say."""
    now = time.time()
    return [
        {"kind": row["kind"], "name": row["name"], "env": row["name"].partition("/")[2], "by": row["holder"],
         "reason": row["reason"], "since": row["starts_at"], "until": row["ends_at"], "in_force": row["starts_at"] <= now}
        for row in rows("SELECT * FROM lease WHERE ends_at > ? ORDER BY ends_at", now)
    ]  # fmt: skip
