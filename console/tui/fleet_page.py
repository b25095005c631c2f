"""One service in one environment: tracks, request rate, its rollout, its alerts, what happened to it. Pure."""

from __future__ import annotations

from console.tui.fleet_rows import budget
from console.tui.page import beside, panel, split
from console.tui.plan_lines import event_words
from console.tui.record_rows import burn_line
from console.tui.rollout_page import WIDE, ladder, verdict_lines, verdict_title
from console.tui.rollout_rows import state_sign
from console.tui.signs import TRACK_TONES, env_span, sign
from console.tui.table import Column, Row, table_lines
from console.tui.text import (
    Line,
    bar,
    chart,
    clock,
    count,
    duration,
    line,
    millis,
    percent,
    rate,
    short_count,
    whole_percent,
)
from engine.api.schemas import FleetRow, RolloutView, Snapshot, TrackView

_TRACKS = (
    Column("TRACK", 7),
    Column("RELEASE", 8, most=24),
    Column("WEIGHT", 6, ">"),
    Column("MEASURED", 8, ">", keep=2),
    Column("REPLICAS", 8, ">", keep=3),
    Column("REQUESTS", 8, ">"),
    Column("ERRORS", 6, ">"),
    Column("P95", 7, ">"),
)
_EVENTS = (
    Column("UTC", 8),
    Column("WHO", 6, most=18),
    Column("WHAT", 8, most=24),
    Column("WHY AND HOW", 8, most=120, flex=True),
)
EVENTS_SHOWN = 8


def fleet_page(row: FleetRow, snapshot: Snapshot, width: int) -> list[Line]:
    """The page at a width."""
    wide = width >= WIDE
    left, right = split(width, 0.58) if wide else (width, width)
    tracks, rates = _tracks(row, snapshot, left - 4), _rates(row, right - 4)
    title = line(
        (row.service, "title"),
        (" in ", "dim"),
        env_span(row.env, row.protected),
        (" · the last minute by track", "dim"),
    )
    lines = _pair((title, tracks), ("requests per second", rates), width, left, right, wide)
    rollout = next((r for r in snapshot.rollouts if r.id == row.rollout_id), None)
    if rollout is not None:
        lines += _rollout(rollout, snapshot.as_of, width, left, right, wide)
    lines += _pair(
        ("what happened", _happened(row, snapshot, left - 4)),
        ("alerts", _alerts(row, snapshot, right - 4)),
        width,
        left,
        right,
        wide,
    )
    return lines


def _pair(
    a: tuple[str | Line, list[Line]], b: tuple[str | Line, list[Line]], width: int, left: int, right: int, wide: bool
) -> list[Line]:
    if not wide:
        return [*panel(*a, width), *panel(*b, width)]
    height = max(len(a[1]), len(b[1])) + 2
    return beside(panel(*a, left, height), panel(*b, right, height), left)


def _track(track: TrackView) -> Row:
    tone = TRACK_TONES.get(track.track, "")
    off = track.measured_pct is not None and abs(track.measured_pct - track.weight) > 5
    ratio = track.errors / track.requests if track.requests else 0.0
    return Row(
        track.track,
        (
            line((track.track, tone)),
            line((track.release_id, tone)),
            line(f"{track.weight} %"),
            line((whole_percent(track.measured_pct), "warn" if off else "")),
            line((f"{track.ready}/{track.replicas}", "" if track.ready == track.replicas else "warn")),
            line(count(track.requests)),
            line((count(track.errors), "dim" if not ratio else "warn" if ratio < 0.05 else "bad")),
            line(millis(track.p95_ms)),
        ),
    )


def _tracks(row: FleetRow, snapshot: Snapshot, width: int) -> list[Line]:
    body = (
        table_lines(_TRACKS, [_track(t) for t in row.tracks], width)
        if row.tracks
        else [line(("nothing is deployed here; `:deploy SERVICE RELEASE --env ENV` starts", "dim"))]
    )
    left = budget(row.budget_left)
    body += [
        (),
        line(("error budget left  ", "dim"), (bar(row.budget_left, 24), left[0][1]), "  ", *left),
        line(("evidence covers    ", "dim"), percent(row.coverage, 0), (" of the window", "dim")),
    ]
    slo = next((s for s in snapshot.slos if (s.service, s.env) == (row.service, row.env)), None)
    if slo is not None and slo.burn:
        body.append(line(("burn rate          ", "dim"), *burn_line(slo)))
    if row.held_by:
        until = f" until {clock(row.held_until)} UTC" if row.held_until else ""
        why = f" ({row.held_reason})" if row.held_reason else ""
        body.append(line((f"held by {row.held_by}{until}: nothing moves by itself{why}", "warn")))
    if row.scaled:
        body.append(line((f"scaled: {row.scaled}", "info")))
    if row.frozen:
        body.append(line((f"frozen: {row.frozen}", "warn")))
    return body


def _rates(row: FleetRow, width: int) -> list[Line]:
    top = max(row.rate_series, default=0.0)
    graph = [line((text, "accent")) for text in chart(row.rate_series, width, 7)]
    return [*graph, line((f"now {rate(row.rps)}/s · highest {short_count(top)}/s", "dim"))]


def _rollout(r: RolloutView, now: float, width: int, left: int, right: int, wide: bool) -> list[Line]:
    title = line(
        (f"rollout {r.id}  ", "title"),
        *state_sign(r),
        (f"  {r.from_release or 'nothing'} → {r.to_release}", "dim"),
        ("   enter opens it", "dim"),
    )
    return _pair(
        (title, ladder(r, now, left - 4)), (verdict_title(r), verdict_lines(r, right - 4)), width, left, right, wide
    )


def _alerts(row: FleetRow, snapshot: Snapshot, width: int) -> list[Line]:
    mine = [
        a for a in snapshot.alerts if a.state == "active" and a.service in (row.service, "") and a.env in (row.env, "")
    ]
    if not mine:
        return [line(("none is active", "dim"))]
    lines: list[Line] = []
    for alert in mine:
        seen = line((f"  seen by {alert.acked_by}", "ok")) if alert.acked_by else line(("  nobody looks at it", "warn"))
        lines += [
            line(*sign(alert.severity, alert.name), (f"  {duration(snapshot.as_of - alert.starts_at)}", "dim"), *seen),
            line("  ", (alert.summary[:width], "dim")),
        ]
    return lines


def _happened(row: FleetRow, snapshot: Snapshot, width: int) -> list[Line]:
    refs = {
        f"service/{row.service}",
        f"service/{row.service}@{row.env}",
        f"env/{row.env}",
        *(f"rollout/{r.id}" for r in snapshot.rollouts if (r.service, r.env) == (row.service, row.env)),
    }
    events = sorted((e for e in snapshot.audit if e.ref.replace(":", "/", 1) in refs), key=lambda e: -e.id)[
        :EVENTS_SHOWN
    ]
    if not events:
        return [line(("nothing lately", "dim"))]
    rows = [
        Row(
            str(e.id),
            (
                line((clock(e.at), "dim")),
                line((e.actor, "accent" if e.actor.startswith("user:") else "dim")),
                line(e.action),
                line((event_words(e), "dim")),
            ),
        )
        for e in events
    ]
    return table_lines(_EVENTS, rows, width)
