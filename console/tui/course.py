"""A rollout over time, drawn in one line a series: weight, errors and latency of each track on one scale. Pure.

A line of eight heights and its numbers is read at 80 columns and without colour; what is drawn is said beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from console.tui.page import panel
from console.tui.signs import TRACK_TONES
from console.tui.text import NOTHING, Line, clock, duration, line, millis, percent, sparkline
from engine.api.course_schemas import CourseView, TrackCourse

Series = Sequence[float]
_LABEL = 19
_NUMBERS = 30
LEAST = 12
"""Points that are worth a line."""


def course_panel(course: CourseView | None, width: int) -> list[Line]:
    """The lines in their frame; none where nothing is known."""
    return panel("over time", course_lines(course, width - 4), width) if course is not None else []


def course_lines(course: CourseView, width: int) -> list[Line]:
    """The lines at a width: the weight, then by metric a line for each track, stable first."""
    room = max(LEAST, min(len(course.weight), width - _LABEL - _NUMBERS))
    tracks = sorted(course.tracks, key=lambda t: (t.track != "stable", t.track, _begins(t)))
    lines = [
        _series("weight", "canary", [float(w) for w in course.weight], room, 100.0, lambda v: f"{v:.0f} %", "highest")
    ]
    for name, of, shown in (
        ("bad share", _errors, percent),
        ("p95", _p95, millis),
        ("median", _p50, millis),
    ):
        found = [(t, of(t)) for t in tracks]
        top = max((v for _, values in found for v in values if math.isfinite(v)), default=0.0)
        lines += [
            _series(name if n == 0 else "", _title(t, tracks), values, room, top, shown, "highest")
            for n, (t, values) in enumerate(found)
        ]
    end = course.since + course.step_s * len(course.weight)
    lines.append(
        line(
            (f"{clock(course.since)} to {clock(end)} UTC, a point each ", "dim"),
            (f"{duration(course.step_s * math.ceil(len(course.weight) / room))}; ", "dim"),
            ("one scale; a gap: no request", "dim"),
        )
    )
    return lines


def _begins(track: TrackCourse) -> int:
    """The point at which it was first asked."""
    return next((n for n, requests in enumerate(track.requests) if requests), len(track.requests))


def _title(track: TrackCourse, all_of_them: Iterable[TrackCourse]) -> str:
    twice = sum(t.track == track.track for t in all_of_them) > 1
    return track.release_id if twice else track.track


def _errors(track: TrackCourse) -> list[float]:
    return [math.nan if v is None else v for v in track.error_ratio]


def _p95(track: TrackCourse) -> list[float]:
    return [math.nan if v is None else v for v in track.p95_ms]


def _p50(track: TrackCourse) -> list[float]:
    return [math.nan if v is None else v for v in track.p50_ms]


def _series(
    name: str, track: str, values: Series, room: int, top: float, shown: Callable[[float | None], str], most: str
) -> Line:
    known = [v for v in values if math.isfinite(v)]
    tone = TRACK_TONES.get(track, "")
    return line(
        (f"{name:<10}", "dim"),
        (f"{track[:8]:<9}", tone),
        (sparkline(squeezed(values, room), room, top), tone or "accent"),
        ("  last ", "dim"),
        shown(known[-1]) if known else NOTHING,
        (f", {most} ", "dim"),
        shown(max(known)) if known else NOTHING,
    )


def squeezed(values: Series, room: int) -> list[float]:
    """`values` in at most `room` points, the highest of each group; a peak is never lost."""
    if len(values) <= room:
        return list(values)
    size = math.ceil(len(values) / room)
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    return [max((v for v in group if math.isfinite(v)), default=math.nan) for group in groups]
