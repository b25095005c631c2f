"""An alert's life: pending, active, resolved; silenced or told. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from engine.observe.conditions import Firing
from state.words import AlertState, Severity

OUTSIDE = "alertmanager"
"""In an alert's label `source`: another evaluator's, which has told its people already."""
RENOTIFY_S = 600.0
"""An unacknowledged page is told again this often."""
RESOLVED_TOLD_S = 3_600.0
"""How long after its end a resolution is still worth telling (a silence or a dead webhook may have held it back)."""


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """One occurrence of an alert, as the store has it."""

    id: int
    fingerprint: str
    name: str
    severity: Severity
    service: str
    env: str
    summary: str
    labels: Mapping[str, str]
    state: AlertState
    starts_at: float
    ends_at: float | None = None
    acked_by: str = ""
    acked_at: float | None = None
    notified_at: float | None = None
    notify_error: str = ""

    @property
    def is_active(self) -> bool:
        """Its condition has not cleared."""
        return self.state is AlertState.ACTIVE

    def matchable(self) -> dict[str, str]:
        """What a silence's matchers look at."""
        own = {"name": self.name, "severity": self.severity.value, "service": self.service, "env": self.env}
        return {**self.labels, **own, "fingerprint": self.fingerprint}


@dataclass(frozen=True, slots=True)
class SilenceRecord:
    """No notification of matching alerts in [starts_at, ends_at)."""

    id: int
    matchers: Mapping[str, str]
    created_by: str
    reason: str
    starts_at: float
    ends_at: float

    def silences(self, alert: AlertRecord, now: float) -> bool:
        """Every matcher's value is the alert's, and the time is right."""
        if not self.starts_at <= now < self.ends_at:
            return False
        has = alert.matchable()
        return bool(self.matchers) and all(has.get(name) == value for name, value in self.matchers.items())


def is_silenced(alert: AlertRecord, silences: Iterable[SilenceRecord], now: float) -> bool:
    """Some silence covers the alert now."""
    return any(silence.silences(alert, now) for silence in silences)


@dataclass(frozen=True, slots=True)
class Held:
    """A condition being watched: since when it holds, when it was last seen to hold, and whether it is an alert yet."""

    firing: Firing
    since: float
    last_seen: float
    is_raised: bool = False


@dataclass(frozen=True, slots=True)
class Changes:
    """What one look at the firing set changes. `held` is the new watch list."""

    held: Mapping[str, Held] = field(default_factory=dict)
    raised: tuple[Held, ...] = ()
    resolved: tuple[Held, ...] = ()
    reworded: tuple[Held, ...] = ()


def advance(held: Mapping[str, Held], firing: Iterable[Firing], now: float, clear_for_s: float) -> Changes:
    """The next watch list, and what to raise and resolve.

    A condition is raised once it has held without a break for its `for_s`. A raised one resolves only after it has been
    clear for `clear_for_s`: a flapping condition stays one occurrence.
    """
    after: dict[str, Held] = {}
    raised, resolved, reworded = [], [], []
    seen = {one.fingerprint: one for one in firing}
    for fingerprint, one in seen.items():
        before = held.get(fingerprint)
        watched = (
            replace(before, firing=one, last_seen=now) if before else Held(one, since=_since(one, now), last_seen=now)
        )
        if not watched.is_raised and now - watched.since >= one.for_s:
            watched = replace(watched, is_raised=True)
            raised.append(watched)
        elif before is not None and watched.is_raised and before.firing.summary != one.summary:
            reworded.append(watched)
        after[fingerprint] = watched
    for fingerprint, watched in held.items():
        if fingerprint in seen or not watched.is_raised:
            continue
        # A clock set back must not keep an alert for ever.
        if now - watched.last_seen >= clear_for_s or now < watched.since:
            resolved.append(watched)
        else:
            after[fingerprint] = watched
    return Changes(after, tuple(raised), tuple(resolved), tuple(reworded))


def _since(firing: Firing, now: float) -> float:
    return now if firing.since is None else min(firing.since, now)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to tell: an alert's start, its end, or that a page still waits for somebody."""

    alert: AlertRecord
    status: str
    is_reminder: bool = False


def notices(alerts: Iterable[AlertRecord], silences: Iterable[SilenceRecord], now: float) -> tuple[Notice, ...]:
    """What is still to be told of `alerts` (the active ones and those that ended lately), from the record alone.

    Told means delivered: `notified_at` is the last delivery, so a start that no hook took stays due, also after a crash,
    and an end is due when the last delivery was before it. Info alerts are shown and not sent. An end is told only
    if its start was.
    """
    quiet = tuple(silences)
    due = []
    for alert in alerts:
        is_theirs = alert.labels.get("source") == OUTSIDE
        if is_theirs or alert.severity is Severity.INFO or is_silenced(alert, quiet, now):
            continue
        told = alert.notified_at
        if alert.is_active:
            if told is None:
                due.append(Notice(alert, "firing"))
            elif alert.severity is Severity.PAGE and not alert.acked_by and now - told >= RENOTIFY_S:
                due.append(Notice(alert, "firing", is_reminder=True))
        elif told is not None and alert.ends_at is not None and told < alert.ends_at > now - RESOLVED_TOLD_S:
            due.append(Notice(alert, "resolved"))
    return tuple(due)
