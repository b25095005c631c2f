"""Lists of what is live and how it does: the fleet, objectives, alerts, silences, processes."""

from __future__ import annotations

import time
from collections.abc import Sequence

from console.commands.format import NONE, ago, clock, milliseconds, number, percent
from console.commands.tables import Item, listing
from console.output import Outcome


def fleet(items: Sequence[Item], filter: str = "") -> Outcome:
    """Services by environment."""
    return listing(
        "Service",
        items,
        ("SERVICE", "ENV", "RELEASE", "TRACKS", "REQ/S", "P95", "ERRORS", "BUDGET", "ROLLOUT", "PHASE", "ALERTS"),
        lambda i: (
            i["service"],
            i["env"],
            i.get("release_id") or NONE,
            _tracks(i),
            number(i.get("rps")),
            milliseconds(i.get("p95_ms")),
            percent(i.get("error_ratio")),
            percent(i.get("budget_left"), 0),
            i.get("rollout_id") or NONE,
            _phase(i),
            number(i.get("alerts")),
        ),
        lambda i: f"service/{i['service']}@{i['env']}",
        filter=filter,
        right=(4, 5, 6, 7, 10),
        empty="no services",
    )


def _tracks(item: Item) -> str:
    return " ".join(f"{t['track']}={t['release_id']}@{t['weight']}%" for t in item.get("tracks") or ()) or NONE


def _phase(item: Item) -> str:
    marks = [item.get("phase") or NONE]
    if item.get("held_by"):
        until = f" until {clock(item['held_until'])}" if item.get("held_until") else ""
        marks.append(f"held by {item['held_by']}{until}")
    if item.get("frozen"):
        marks.append(f"frozen: {item['frozen']}")
    if item.get("break_glass"):
        marks.append(f"GLASS BROKEN by {item['break_glass']}")
    return ", ".join(marks)


def slos(items: Sequence[Item], filter: str = "") -> Outcome:
    """Objectives and how they stand."""
    return listing(
        "Slo",
        items,
        ("SERVICE", "ENV", "OBJECTIVE", "P95 UNDER", "WINDOW", "SLI", "BUDGET LEFT", "BURN", "COVERAGE", "REQUESTS"),
        lambda i: (
            i["service"],
            i["env"],
            f"{number(i['availability'])} %",
            milliseconds(i["latency_p95_ms"]),
            f"{number(i['window_d'])}d",
            percent(i.get("sli")),
            percent(i.get("budget_left"), 0),
            " ".join(f"{w}={number(b)}" for w, b in (i.get("burn") or {}).items()) or NONE,
            percent(i.get("coverage"), 0),
            number(i.get("requests")),
        ),
        lambda i: f"slo/{i['service']}@{i['env']}",
        filter=filter,
        right=(2, 3, 4, 5, 6, 8, 9),
        empty="no objectives",
    )


def alerts(items: Sequence[Item], filter: str = "") -> Outcome:
    """Alerts, newest first."""
    now = time.time()
    return listing(
        "Alert",
        items,
        ("ALERT", "SEVERITY", "NAME", "SERVICE", "ENV", "STATE", "SINCE", "ACKED BY", "SUMMARY"),
        lambda i: (
            str(i["id"]),
            i["severity"],
            i["name"],
            i.get("service") or NONE,
            i.get("env") or NONE,
            i["state"] + (" (silenced)" if i.get("silenced") else ""),
            ago(i["starts_at"], now),
            i.get("acked_by") or NONE,
            i["summary"],
        ),
        lambda i: f"alert/{i['id']}",
        filter=filter,
        right=(0,),
        empty="no alerts",
    )


def silences(items: Sequence[Item], filter: str = "") -> Outcome:
    """Silences in force."""
    return listing(
        "Silence",
        items,
        ("SILENCE", "MATCHES", "BY", "REASON", "UNTIL"),
        lambda i: (
            str(i["id"]),
            " ".join(f"{k}={v}" for k, v in (i.get("matchers") or {}).items()) or NONE,
            i.get("created_by") or NONE,
            i.get("reason") or NONE,
            clock(i.get("ends_at")),
        ),
        lambda i: f"silence/{i['id']}",
        filter=filter,
        right=(0,),
        empty="no silences",
    )


def serving(items: Sequence[Item], filter: str = "") -> Outcome:
    """Processes that serve."""
    now = time.time()
    return listing(
        "Replica",
        items,
        ("REPLICA", "KIND", "SERVICE", "ENV", "RELEASE", "PID", "STATE", "RESTARTS", "AGE", "DETAIL"),
        lambda i: (
            i["spawn_id"],
            i["kind"],
            i.get("service") or NONE,
            i.get("env") or NONE,
            i.get("release_id") or NONE,
            number(i.get("pid")),
            i["state"],
            number(i.get("restarts")),
            ago(i.get("started_at") or None, now),
            i.get("detail") or NONE,
        ),
        lambda i: f"replica/{i['spawn_id']}",
        filter=filter,
        right=(5, 7, 8),
        empty="nothing serves",
    )
