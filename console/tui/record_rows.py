"""Releases, SLOs, alerts, serving processes and audit rows as lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from console.rows import Rows
from console.tui.fleet_rows import budget
from console.tui.listing import Listing
from console.tui.plan_lines import event_words
from console.tui.scene import Frame, Scope
from console.tui.signs import sign, words
from console.tui.table import Column, Row
from console.tui.text import NOTHING, Line, bar, clock, count, duration, line, millis, number, percent, stamp
from engine.api.schemas import AlertView, EventView, ReleaseView, ReplicaView, SloView, Snapshot
from state.labels import model_label
from state.words import AlertState

RELEASE_COLUMNS = (
    Column("RELEASE", 9, most=24),
    Column("SERVICE", 7, most=20),
    Column("LIFECYCLE", 13),
    Column("LIVE IN", 7, most=30),
    Column("MODEL", 8, most=28, keep=3),
    Column("METRICS", 10, most=60, flex=True, keep=2),
    Column("RUN", 5, most=12, keep=4),
    Column("DIGEST", 12, most=12, keep=6),
    Column("MADE UTC", 19, keep=5),
    Column("BY", 4, most=16, keep=7),
)


def release_row(r: ReleaseView, _now: float) -> Row:
    """A release as a row."""
    lifecycle = "Rejected" if r.rejected_reason else r.lifecycle
    metrics = r.rejected_reason or ", ".join(f"{k} {number(v)}" for k, v in list(r.metrics.items())[:6])
    return Row(
        r.id,
        (
            line((r.id, "strong")),
            line(r.service),
            sign(lifecycle, lifecycle),
            line((", ".join(r.live_in) or NOTHING, "ok" if r.live_in else "dim")),
            line(model_label(r.model_name, r.model_version) or NOTHING),
            line((metrics, "bad" if r.rejected_reason else "dim")),
            line((r.run_id or NOTHING, "dim")),
            line((r.digest.removeprefix("sha256:")[:12], "dim")),
            line((stamp(r.created_at), "dim")),
            line((r.created_by, "dim")),
        ),
        tone="" if r.live_in else "dim",
    )


SLO_COLUMNS = (
    Column("SERVICE", 7, most=20),
    Column("ENV", 4, most=16),
    Column("OBJECTIVE", 10, most=40, keep=2),
    Column("NOW", 7, ">"),
    Column("BUDGET LEFT", 11, most=22),
    Column("BURN", 12, most=60, flex=True),
    Column("COVERAGE", 8, ">", keep=3),
    Column("REQUESTS", 8, ">", keep=4),
    Column("ERRORS", 6, ">", keep=5),
)
FAST_BURN = 14.4
"""The 1 h burn rate that pages: 2 % of a 30 day budget in an hour (SRE workbook, chapter 5)."""


def window_order(window: str) -> float:
    """Seconds of a window's name, to put `5m` before `1h`."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(window[-1:], 1)
    head = window[:-1]
    return float(head) * unit if head.replace(".", "", 1).isdigit() else 1e12


def burn_line(slo: SloView) -> Line:
    """Burn rates by window, shortest first: 1 spends the budget exactly over its window."""
    spans: list[tuple[str, str]] = []
    for window in sorted(slo.burn, key=window_order):
        value = slo.burn[window]
        tone = "dim" if value is None or value <= 1 else "bad" if value >= FAST_BURN else "warn"
        spans += [(f"{window} ", "dim"), (f"{NOTHING if value is None else f'{value:.1f}×'}  ", tone)]
    return line(*spans)


def slo_row(s: SloView, _now: float) -> Row:
    """A service's objectives as a row."""
    tone = budget(s.budget_left)[0][1]
    return Row(
        f"{s.service}\0{s.env}",
        (
            line((s.service, "strong")),
            line(s.env),
            line(f"{s.availability:g} %, p95 < {millis(s.latency_p95_ms)}"),
            line((percent(s.sli), "" if s.sli is None or s.sli * 100 >= s.availability else "bad")),
            line((bar(s.budget_left, 12), tone), " ", *budget(s.budget_left)),
            burn_line(s),
            line((percent(s.coverage, 0), "dim" if s.coverage > 0.95 else "warn")),
            line(count(s.requests)),
            line((count(s.errors), "dim" if not s.errors else "warn")),
        ),
    )


ALERT_COLUMNS = (
    Column("ID", 3, ">"),
    Column("SEVERITY", 8, most=10),
    Column("STATE", 10),
    Column("ALERT", 8, most=28),
    Column("SERVICE", 7, most=20),
    Column("ENV", 4, most=16, keep=3),
    Column("SINCE UTC", 9, keep=4),
    Column("FOR", 7, ">", keep=2),
    Column("SEEN BY", 7, most=16),
    Column("WHAT", 10, most=200, flex=True, keep=1),
)


def alert_row(a: AlertView, now: float) -> Row:
    """An alert as a row; one that has resolved is quieter."""
    active = a.state == AlertState.ACTIVE
    notes = (" · silenced" if a.silenced else "") + (f" · nobody was told: {a.notify_error}" if a.notify_error else "")
    return Row(
        str(a.id),
        (
            line((str(a.id), "dim")),
            sign(a.severity) if active else line((f"· {a.severity}", "dim")),
            sign(a.state),
            line((a.name, "strong" if active else "")),
            line(a.service or NOTHING),
            line(a.env or NOTHING),
            line((clock(a.starts_at), "dim")),
            line((duration((a.ends_at or now) - a.starts_at), "dim")),
            line(
                (a.acked_by or ("nobody" if active else NOTHING), "ok" if a.acked_by else "warn" if active else "dim")
            ),
            line(a.summary, (notes, "warn")),
        ),
        tone="" if active else "dim",
    )


SERVING_COLUMNS = (
    Column("KIND", 7, most=10),
    Column("PROCESS", 8, most=28),
    Column("SERVICE", 7, most=20),
    Column("ENV", 4, most=16, keep=2),
    Column("RELEASE", 8, most=20),
    Column("STATE", 10, most=16),
    Column("PID", 6, ">", keep=4),
    Column("RESTARTS", 8, ">", keep=1),
    Column("UP", 9, ">"),
    Column("DETAIL", 8, most=120, flex=True, keep=3),
)


def replica_row(r: ReplicaView, now: float) -> Row:
    """A serving process as a row."""
    return Row(
        r.spawn_id,
        (
            line(r.kind),
            line((r.spawn_id, "strong")),
            line(r.service or NOTHING),
            line(r.env or NOTHING),
            line(r.release_id or NOTHING),
            sign(r.state),
            line((str(r.pid) if r.pid else NOTHING, "dim")),
            line((str(r.restarts), "dim" if not r.restarts else "warn")),
            line((duration(now - r.started_at) if r.started_at else NOTHING, "dim")),
            line((r.detail, "dim")),
        ),
    )


AUDIT_COLUMNS = (
    Column("ID", 4, ">"),
    Column("AT UTC", 19, keep=1),
    Column("WHO", 8, most=24),
    Column("WHAT", 10, most=28),
    Column("ON", 8, most=28),
    Column("WHY AND HOW", 10, most=400, flex=True, keep=2),
)


def audit_row(e: EventView, _now: float) -> Row:
    """An audit row as a row."""
    human = e.actor.startswith("user:")
    return Row(
        str(e.id),
        (
            line((str(e.id), "dim")),
            line((stamp(e.at), "dim")),
            line((e.actor, "accent" if human else "dim")),
            line((words(e.action), "strong" if human else "")),
            line(e.ref.replace(":", "/", 1)),
            line((event_words(e), "dim")),
        ),
    )


def _alerts(frame: Frame, scope: Scope) -> list[AlertView]:
    rows: Sequence[AlertView] = frame.snapshot.alerts
    if not scope.history:
        return [a for a in rows if a.state == AlertState.ACTIVE]
    if frame.interest is not None and frame.interest.kind == "alerts" and isinstance(frame.extra, tuple):
        rows = tuple(a for a in frame.extra if isinstance(a, AlertView))
    return sorted(rows, key=lambda a: -a.id)


def _audit(frame: Frame, _scope: Scope) -> Sequence[EventView]:
    if frame.interest is not None and frame.interest.kind == "audit" and isinstance(frame.extra, Rows):
        return frame.extra
    return sorted(frame.snapshot.audit, key=lambda e: -e.id)


def chain_line(snapshot: Snapshot) -> Line:
    """How the audit chain stands."""
    s = snapshot.status
    if not s.audit_ok:
        return line(
            ("✗ the audit chain is broken: `airboss audit verify` says where; forward changes are refused", "bad")
        )
    return line(("✓ chain whole", "ok"), (f" · {count(s.audit_rows)} rows · head {s.audit_head[:16]}", "dim"))


RELEASES = Listing(
    "releases",
    RELEASE_COLUMNS,
    lambda f, _s: f.snapshot.releases,
    lambda r: r.id,
    release_row,
    "no release yet: `:pipeline run NAME` makes one",
)
SLOS = Listing(
    "slos",
    SLO_COLUMNS,
    lambda f, _s: f.snapshot.slos,
    lambda s: f"{s.service}\0{s.env}",
    slo_row,
    "no objective is configured: add slo = {…} to a [service.NAME] in airboss.toml",
)
ALERTS = Listing(
    "alerts", ALERT_COLUMNS, _alerts, lambda a: str(a.id), alert_row, "no alert is active; `h` shows those that were"
)
SERVING = Listing(
    "serving", SERVING_COLUMNS, lambda f, _s: f.snapshot.serving, lambda r: r.spawn_id, replica_row, "nothing serves"
)
AUDIT = Listing("audit", AUDIT_COLUMNS, _audit, lambda e: str(e.id), audit_row, "nothing has happened yet")
