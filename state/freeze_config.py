"""`[freeze.NAME]`: times in which an environment does not move forward, once or every week. Validation only."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from pydantic import field_validator, model_validator

from state.config_types import Name, Table

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_SPAN = re.compile(
    rf"(?:({'|'.join(DAYS)})(?:-({'|'.join(DAYS)}))? )?{_TIME} ?- ?(?:({'|'.join(DAYS)}) )?({_TIME}|24:00)"
)


def weekly_span(text: str) -> tuple[tuple[int, int], ...]:
    """`fri 18:00 - mon 08:00`, `mon-thu 18:00-08:00`, `22:00-06:00` → (start, length) in minutes of the week.

    Raises ValueError with what is allowed.
    """
    match = _SPAN.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(
            f"{text!r} is no weekly time such as 'fri 18:00 - mon 08:00', 'mon-thu 18:00-08:00' or '22:00-06:00'"
        )
    first, last, hour, minute, end_day, end, *_ = match.groups()
    start, end_minute = int(hour) * 60 + int(minute), int(end[:2]) * 60 + int(end[3:])
    if end_day is not None:
        if first is None or last is not None:
            raise ValueError(f"{text!r}: a time that ends on another day begins on one day")
        begin = DAYS.index(first) * DAY_MINUTES + start
        length = (DAYS.index(end_day) * DAY_MINUTES + end_minute - begin) % (7 * DAY_MINUTES)
        return ((begin, length or 7 * DAY_MINUTES),)
    length = (end_minute - start) % DAY_MINUTES or DAY_MINUTES
    days = range(7)
    if first is not None:
        until = DAYS.index(last or first)
        days = range(DAYS.index(first), until + 1 if until >= DAYS.index(first) else until + 8)
    return tuple(((day % 7) * DAY_MINUTES + start, length) for day in days)


class FreezeWindow(Table):
    """Times of no forward movement: `weekly` in the zone's wall-clock time, or once from `since` to `until`."""

    environments: tuple[Name, ...] = ()
    """Where; none means every protected environment."""
    reason: str
    timezone: str = "UTC"
    weekly: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @field_validator("weekly", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("weekly")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            weekly_span(one)
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError) as error:
            raise ValueError(f"{value!r} is no time zone that this host knows, such as 'Europe/Berlin'") from error
        return value

    @field_validator("since", "until")
    @classmethod
    def _has_offset(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time needs its offset, such as 2026-12-24T12:00:00+01:00")
        return value

    @model_validator(mode="after")
    def _says_when(self) -> FreezeWindow:
        is_once = self.since is not None or self.until is not None
        if bool(self.weekly) == is_once:
            raise ValueError("say either weekly times, or since and until")
        if is_once and (self.since is None or self.until is None or self.since >= self.until):
            raise ValueError("since and until both, and since before until")
        if not self.reason.strip():
            raise ValueError("a reason: everyone who is refused reads it")
        return self
