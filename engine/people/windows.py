"""When a freeze window of airboss.toml is open. Pure; wall-clock times of the window's zone, whatever its clocks do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from state.freeze_config import DAY_MINUTES, FreezeWindow, weekly_span


@dataclass(frozen=True, slots=True)
class Span:
    """One occurrence of a window, in Unix seconds."""

    since: float
    until: float


def occurrence(window: FreezeWindow, at: float) -> Span | None:
    """The occurrence that holds at `at`, or the next one; None when it is all over. The longest, where two hold."""
    if window.since is not None and window.until is not None:
        span = Span(window.since.timestamp(), window.until.timestamp())
        return span if at < span.until else None
    zone = ZoneInfo(window.timezone)
    today = datetime.fromtimestamp(at, UTC).astimezone(zone).date()
    monday = today - timedelta(days=today.weekday())
    spans = [
        Span(_wall(zone, monday, week * 7 * DAY_MINUTES + start), _wall(zone, monday, week * 7 * DAY_MINUTES + start + length))
        for text in window.weekly
        for start, length in weekly_span(text)
        for week in (-1, 0, 1)
    ]  # fmt: skip
    open_now = [span for span in spans if span.since <= at < span.until]
    if open_now:
        return max(open_now, key=lambda span: span.until)
    return min((span for span in spans if span.since > at), key=lambda span: span.since)


def _wall(zone: ZoneInfo, monday: date, minutes: int) -> float:
    """Unix seconds of the wall-clock time so many minutes after Monday 00:00. A time that clocks skip is the one after."""
    days, rest = divmod(minutes, DAY_MINUTES)
    local = datetime.combine(monday + timedelta(days=days), time(rest // 60, rest % 60), zone)
    return local.timestamp()
