"""The book of alerts: raised, kept, acknowledged, silenced and resolved in the store, its whole history kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from sqlmodel import Session, col, select

from engine.observe.conditions import Firing
from engine.observe.lifecycle import (
    RESOLVED_TOLD_S,
    AlertRecord,
    Changes,
    Held,
    SilenceRecord,
    advance,
    is_silenced,
)
from state import audit
from state.models import Alert, Silence
from state.store import Store
from state.words import AlertState, Conflict, Severity, UsageError

CLEAR_FOR_S = 30.0
REWORD_EVERY_S = 15.0
"""A summary's numbers move with every look; the record follows at this pace."""


class AlertBook:
    """Applies firing sets to the store, and people's words on alerts. One per engine."""

    def __init__(
        self, store: Store, *, clock: Callable[[], float] = time.time, clear_for_s: float = CLEAR_FOR_S
    ) -> None:
        self._store = store
        self._clock = clock
        self._clear_for_s = clear_for_s
        self._held: dict[str, Held] = {}
        self._active: dict[str, AlertRecord] = {}
        self._silences: tuple[SilenceRecord, ...] = ()
        self._reworded_at: dict[str, float] = {}
        self._is_open = False

    async def apply(self, firing: Iterable[Firing]) -> Changes:
        """Take the conditions that hold now; writes only when an alert begins, ends or is worth rewording."""
        await self._open()
        now = self._clock()
        changes = advance(self._held, firing, now, self._clear_for_s)
        reworded = tuple(
            held
            for held in changes.reworded
            if now - self._reworded_at.get(held.firing.fingerprint, held.since) >= REWORD_EVERY_S
        )
        if changes.raised or changes.resolved or reworded:
            ended = {h.firing.fingerprint: self._active[h.firing.fingerprint].id for h in changes.resolved}
            spoken = {self._active[h.firing.fingerprint].id: h.firing.summary for h in reworded}
            fresh = await self._store.write(lambda s: _write(s, changes.raised, ended.values(), spoken, now))
            for fingerprint in ended:
                self._active.pop(fingerprint)
                self._reworded_at.pop(fingerprint, None)
            for held in reworded:
                fingerprint = held.firing.fingerprint
                self._active[fingerprint] = replace(self._active[fingerprint], summary=held.firing.summary)
                self._reworded_at[fingerprint] = now
            self._active.update({record.fingerprint: record for record in fresh})
        self._held = dict(changes.held)
        return changes

    def active(self) -> tuple[AlertRecord, ...]:
        """The alerts that hold, loudest and oldest first."""
        loudness = list(Severity)
        return tuple(sorted(self._active.values(), key=lambda a: (loudness.index(a.severity), a.starts_at)))

    def silences(self) -> tuple[SilenceRecord, ...]:
        """The silences that have not expired."""
        now = self._clock()
        return tuple(silence for silence in self._silences if silence.ends_at > now)

    def is_silenced(self, alert: AlertRecord) -> bool:
        """Nobody is told of this alert now."""
        return is_silenced(alert, self.silences(), self._clock())

    async def history(self, limit: int = 200) -> tuple[AlertRecord, ...]:
        """The newest occurrences, active or not."""
        return await self._store.read(
            lambda s: tuple(_record(row) for row in s.exec(select(Alert).order_by(col(Alert.id).desc()).limit(limit)))
        )

    async def to_tell(self) -> tuple[AlertRecord, ...]:
        """The active alerts and those that ended lately: what `lifecycle.notices` decides on."""
        await self._open()
        since = self._clock() - RESOLVED_TOLD_S
        is_live = (col(Alert.state) == AlertState.ACTIVE.value) | (col(Alert.ends_at) > since)
        return await self._store.read(lambda s: tuple(_record(row) for row in s.exec(select(Alert).where(is_live))))

    async def ack(self, alert_id: int, actor: str, note: str = "") -> AlertRecord:
        """Somebody has the alert: reminders stop. Acknowledging it again changes nothing; raises Conflict once resolved."""
        await self._open()
        now = self._clock()
        record = await self._store.write(lambda session: _ack(session, alert_id, actor, note, now))
        self._refresh(record)
        return record

    async def silence(self, matchers: Mapping[str, str], actor: str, reason: str, ends_at: float) -> SilenceRecord:
        """Tell nobody of alerts whose labels have all of `matchers`' values, until `ends_at` (Unix seconds)."""
        await self._open()
        now = self._clock()
        if not matchers:
            raise UsageError("a silence needs at least one matcher", hint="such as service=chat or name=CrashLoop")
        if not reason.strip():
            raise UsageError("a silence needs a reason", hint="--reason TEXT")
        if ends_at <= now:
            raise UsageError("a silence must end in the future", hint="give it a duration such as 2h")
        record = await self._store.write(lambda session: _silence(session, matchers, actor, reason, now, ends_at))
        self._silences = (*self.silences(), record)
        return record

    async def unsilence(self, silence_id: int, actor: str, reason: str = "") -> SilenceRecord:
        """End a silence now; its record stays. Ending one that is over changes nothing."""
        await self._open()
        now = self._clock()
        record = await self._store.write(lambda session: _unsilence(session, silence_id, actor, reason, now))
        self._silences = tuple(s for s in self.silences() if s.id != silence_id)
        return record

    async def told(self, alert_id: int, at: float | None, error: str) -> None:
        """Record a delivery: `at` when some hook took it (None: none did), `error` what went wrong with the others."""

        def write(session: Session) -> AlertRecord | None:
            row = session.get(Alert, alert_id)
            if row is None:
                return None
            if at is not None:
                row.notified_at = at
            row.notify_error = error
            session.add(row)
            return _record(row)

        record = await self._store.write(write)
        if record is not None:
            self._refresh(record)

    def _refresh(self, record: AlertRecord) -> None:
        """Show the record as it is now, unless it has resolved meanwhile."""
        shown = self._active.get(record.fingerprint)
        if shown is not None and shown.id == record.id:
            self._active[record.fingerprint] = record

    async def _open(self) -> None:
        """Take over what an earlier engine left active: it has a whole `clear_for_s` to be seen firing again."""
        if self._is_open:
            return
        now = self._clock()
        active, silences = await self._store.read(lambda session: (_load_active(session), _load_silences(session, now)))
        self._active = {record.fingerprint: record for record in active}
        self._held = {
            record.fingerprint: Held(_firing_of(record), record.starts_at, last_seen=now, is_raised=True)
            for record in active
        }
        self._silences = silences
        self._is_open = True


def _record(row: Alert) -> AlertRecord:
    return AlertRecord(
        id=row.id or 0,
        fingerprint=row.fingerprint,
        name=row.name,
        severity=Severity(row.severity),
        service=row.service,
        env=row.env,
        summary=row.summary,
        labels=dict(row.labels),
        state=AlertState(row.state),
        starts_at=row.starts_at,
        ends_at=row.ends_at,
        acked_by=row.acked_by,
        acked_at=row.acked_at,
        notified_at=row.notified_at,
        notify_error=row.notify_error,
    )


def _silence_record(row: Silence) -> SilenceRecord:
    return SilenceRecord(row.id or 0, dict(row.matchers), row.created_by, row.reason, row.starts_at, row.ends_at)


def _firing_of(record: AlertRecord) -> Firing:
    return Firing(record.name, record.severity, record.summary, record.service, record.env, record.labels)


def _load_active(session: Session) -> tuple[AlertRecord, ...]:
    rows = session.exec(select(Alert).where(Alert.state == AlertState.ACTIVE.value).order_by(col(Alert.id)))
    return tuple(_record(row) for row in rows)


def _load_silences(session: Session, now: float) -> tuple[SilenceRecord, ...]:
    return tuple(_silence_record(row) for row in session.exec(select(Silence).where(col(Silence.ends_at) > now)))


def _write(
    session: Session, raised: Sequence[Held], ended: Iterable[int], spoken: Mapping[int, str], now: float
) -> tuple[AlertRecord, ...]:
    rows = [
        Alert(
            fingerprint=held.firing.fingerprint,
            name=held.firing.name,
            severity=held.firing.severity.value,
            service=held.firing.service,
            env=held.firing.env,
            summary=held.firing.summary,
            labels=dict(held.firing.labels),
            state=AlertState.ACTIVE.value,
            starts_at=held.since,
        )
        for held in raised
    ]
    session.add_all(rows)
    for alert_id in ended:
        row = session.get_one(Alert, alert_id)
        row.state, row.ends_at = AlertState.RESOLVED.value, now
    for alert_id, summary in spoken.items():
        session.get_one(Alert, alert_id).summary = summary
    session.flush()
    return tuple(_record(row) for row in rows)


def _ack(session: Session, alert_id: int, actor: str, note: str, now: float) -> AlertRecord:
    row = session.get(Alert, alert_id)
    if row is None:
        raise UsageError(f"there is no alert {alert_id}", hint="`airboss alert list` shows them", code="no_such_alert")
    if row.acked_by:
        return _record(row)
    if row.state != AlertState.ACTIVE:
        raise Conflict(f"alert {alert_id} has resolved; there is nothing to acknowledge")
    row.acked_by, row.acked_at = actor, now
    session.add(row)
    audit.append(
        session,
        actor=actor,
        action="alert.ack",
        ref=f"alert:{alert_id}",
        reason=note,
        detail={"name": row.name},
        at=now,
    )
    return _record(row)


def _silence(
    session: Session, matchers: Mapping[str, str], actor: str, reason: str, now: float, ends_at: float
) -> SilenceRecord:
    row = Silence(matchers=dict(matchers), created_by=actor, reason=reason, starts_at=now, ends_at=ends_at)
    session.add(row)
    session.flush()
    detail = {"matchers": dict(matchers), "ends_at": ends_at}
    audit.append(
        session, actor=actor, action="alert.silence", ref=f"silence:{row.id}", reason=reason, detail=detail, at=now
    )
    return _silence_record(row)


def _unsilence(session: Session, silence_id: int, actor: str, reason: str, now: float) -> SilenceRecord:
    row = session.get(Silence, silence_id)
    if row is None:
        raise UsageError(
            f"there is no silence {silence_id}", hint="`airboss alert list` shows them", code="no_such_silence"
        )
    if row.ends_at > now:
        row.ends_at = now
        session.add(row)
        audit.append(session, actor=actor, action="alert.unsilence", ref=f"silence:{silence_id}", reason=reason, at=now)
    return _silence_record(row)
