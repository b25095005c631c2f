"""The fleet: a row a service and environment. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from console.tui.listing import Listing
from console.tui.scene import Frame, Scope
from console.tui.signs import TRACK_TONES, env_span, sign
from console.tui.table import Column, Row
from console.tui.text import (
    NOTHING,
    Line,
    clock,
    line,
    millis,
    percent,
    rate,
    sparkline,
)
from engine.api.schemas import FleetRow

COLUMNS = (
    Column("SERVICE", 8, most=24),
    Column("ENV", 4, most=16),
    Column("RELEASE", 8, most=24, keep=6),
    Column("TRAFFIC", 14, most=34, flex=True, keep=7),
    Column("REQ/S", 5, ">", keep=2),
    Column("LAST MINUTES", 16, keep=8, most=16),
    Column("P95", 6, ">", keep=3),
    Column("ERRORS", 6, ">", keep=4),
    Column("BUDGET", 6, ">", keep=1),
    Column("COVER", 6, ">", keep=9),
    Column("ROLLOUT", 10, most=26),
    Column("STATE", 8, most=30),
)
LOW_BUDGET = 0.25


def traffic(row: FleetRow) -> Line:
    """Which release gets which share: `charlm-1 75 · charlm-2 25`, each in its track's tone."""
    shares = [t for t in row.tracks if t.weight > 0]
    spans: list[tuple[str, str]] = []
    for track in shares:
        if spans:
            spans.append((" · ", "dim"))
        spans.append((f"{track.track} {track.weight} %", TRACK_TONES.get(track.track, "")))
    return line(*spans) if spans else line(("none", "dim"))


def budget(left: float | None) -> Line:
    """The share of the error budget left, loud when little is."""
    tone = "dim" if left is None else "bad" if left <= 0 else "warn" if left < LOW_BUDGET else "ok"
    return line((percent(left, 0), tone))


def errors(ratio: float | None, requests: bool = True) -> Line:
    """The error ratio; nothing is said where there were no requests."""
    if ratio is None or not requests:
        return line((NOTHING, "dim"))
    return line((percent(ratio), "dim" if ratio == 0 else "warn" if ratio < 0.05 else "bad"))


def state(row: FleetRow) -> Line:
    """What needs a person first: a page, other alerts, no replicas, a hold, a freeze."""
    spans: list[tuple[str, str]] = []
    if row.paging:
        spans.append((f"▲ {row.paging} paging", "bad"))
    elif row.alerts:
        spans.append((f"▲ {row.alerts} alert{'s' if row.alerts > 1 else ''}", "warn"))
    elif any(t.weight > 0 and t.ready == 0 for t in row.tracks):
        spans.append(("✗ not ready", "bad"))
    elif row.release_id is None:
        spans.append(("○ no release", "dim"))
    else:
        spans.append(("● ok", "ok"))
    if row.held_by:
        until = f" to {clock(row.held_until)[:5]}" if row.held_until else ""
        spans.append((f" ‖ held{until} by {row.held_by}", "warn"))
    if row.frozen:
        spans.append((" * frozen", "warn"))
    if row.scaled:
        spans.append((f" × {row.scaled.split(' ')[0]} by hand", "info"))
    if row.break_glass:
        spans.append((" ! glass broken", "bad"))
    return line(*spans)


_SHORT = {
    "step_baking": "baking",
    "step_applying": "applying",
    "awaiting_promotion": "waits for p",
    "awaiting_approval": "waits for approval",
}


def phase(row: FleetRow) -> Line:
    """Where the service's rollout stands, and its canary's weight."""
    if not row.rollout_id or not row.phase:
        return line((NOTHING, "dim"))
    canary = next((t.weight for t in row.tracks if t.track == "canary" and t.weight > 0), None)
    return line(
        *sign(phase_state(row.phase), _SHORT.get(row.phase, row.phase.removeprefix("step "))),
        (f" {canary} %" if canary is not None else "", "canary"),
    )


def phase_state(phase: str) -> str:
    """The state in a phase's words: `step 2/3 baking` is step_baking, `paused: manual` is paused."""
    if phase.startswith("step ") and phase.endswith((" baking", " applying")):
        return f"step_{phase.rpartition(' ')[2]}"
    return phase.partition(":")[0].replace(" ", "_")


def fleet_row(row: FleetRow, _now: float) -> Row:
    """A service in an environment as a row."""
    return Row(
        fleet_key(row),
        (
            line((row.service, "strong")),
            line(env_span(row.env, row.protected)),
            line(row.release_id or NOTHING),
            traffic(row),
            line(rate(row.rps)),
            line((sparkline(row.rate_series, 16), "accent")),
            line(millis(row.p95_ms)),
            errors(row.error_ratio),
            budget(row.budget_left),
            line((percent(row.coverage, 0), "dim" if row.coverage is None or row.coverage > 0.95 else "warn")),
            phase(row),
            state(row),
        ),
    )


def fleet_key(row: FleetRow) -> str:
    """What tells a row of the fleet from any other."""
    return f"{row.service}\0{row.env}"


def _objects(frame: Frame, _scope: Scope) -> Sequence[FleetRow]:
    return frame.snapshot.fleet


FLEET = Listing(
    view="fleet",
    columns=COLUMNS,
    objects=_objects,
    key=fleet_key,
    row=fleet_row,
    empty="no service is configured: add [service.NAME] and [environment.NAME] to airboss.toml",
)
