"""Alertmanager beside us: it is given our alerts, its alerts are in our book, and silences made here hold there.

Level-triggered: each turn sends what is active, and what lately ended; asks what is active there; and brings the
silences in line. A turn that fails leaves everything as it was, and is an adapter that is down.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from sqlmodel import Session

from adapters.alertmanager import rfc3339
from adapters.ports import AlertSource, OutsideAlert
from engine.observe.alerts import AlertBook
from engine.observe.conditions import AdapterFact, Firing
from engine.observe.lifecycle import OUTSIDE, AlertRecord, SilenceRecord
from state import ids
from state.store import Store
from state.words import AlertState, Conflict, Severity, Unreachable

log = logging.getLogger("airboss.peers")

LAST_WORD_S = 3.0
"""An engine that stops gives its peers so long to hear of what was raised since the last turn."""
RESEND_S = 60.0
"""Alerts are sent again this often, as Prometheus does."""
KEPT_S = 4 * RESEND_S
"""How long an alert stands there without being sent again: three lost messages end nothing."""
ENDED_AGAIN_S = 15 * 60.0
"""An end is repeated so long, as Prometheus does: one that lay in the future by a peer's clock was not taken for one."""
SILENCES_KEY = "alertmanager/silences"
_SEVERITIES = {
    "critical": Severity.PAGE, "page": Severity.PAGE, "emergency": Severity.PAGE, "error": Severity.PAGE,
    "info": Severity.INFO, "none": Severity.INFO, "debug": Severity.INFO,
}  # fmt: skip


def labels_of(alert: AlertRecord, workspace: str) -> dict[str, str]:
    """An alert of ours as labels: what Alertmanager routes, groups and silences by."""
    labels = {
        **alert.labels, "alertname": alert.name, "severity": alert.severity.value, "workspace": workspace,
        "airboss_fingerprint": alert.fingerprint,
    }  # fmt: skip
    return labels | {name: value for name, value in (("service", alert.service), ("env", alert.env)) if value}


def annotations_of(alert: AlertRecord) -> dict[str, str]:
    """What a person reads; who has it, so that the pager shows it too."""
    said = {"summary": alert.summary, "alert_id": str(alert.id)}
    return {**said, "acked_by": alert.acked_by} if alert.acked_by else said


def postable(alert: AlertRecord, workspace: str, now: float) -> dict[str, Any]:
    """An alert as API v2 takes it: one that holds ends by itself if nobody says it again."""
    return {
        "labels": labels_of(alert, workspace),
        "annotations": annotations_of(alert),
        "startsAt": rfc3339(alert.starts_at),
        "endsAt": rfc3339(now + KEPT_S if alert.ends_at is None else alert.ends_at),
    }


def firing_of(alert: OutsideAlert) -> Firing:
    """An alert that another raised, as a condition of our book; its own fingerprint tells occurrences apart."""
    labels, said = alert.labels, alert.annotations
    summary = (
        said.get("summary") or said.get("description") or said.get("message") or labels.get("alertname", "an alert")
    )
    return Firing(
        labels.get("alertname", "unnamed"),
        _SEVERITIES.get(labels.get("severity", "").lower(), Severity.TICKET),
        f"{summary} (silenced in Alertmanager)" if alert.is_quiet else summary,
        labels.get("service", ""),
        labels.get("env") or labels.get("environment") or "",
        {"source": OUTSIDE, "alertmanager": alert.fingerprint},
        since=alert.starts_at,
    )


def matchers_of(matchers: Mapping[str, str]) -> dict[str, str]:
    """A silence's matchers in Alertmanager's words."""
    names = {"name": "alertname", "fingerprint": "airboss_fingerprint"}
    return {names.get(name, name): value for name, value in matchers.items()}


class Peers:
    """Keeps one workspace and its Alertmanagers in line. Call `tell` and `align` often; each does what is due."""

    def __init__(
        self,
        store: Store,
        book: AlertBook,
        source: AlertSource,
        workspace: str,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._book = book
        self._source = source
        self._workspace = workspace
        self._clock = clock
        self._sent: dict[int, tuple[float, bool, str]] = {}
        self._troubles: dict[str, str] = {}
        self._outside: tuple[Firing, ...] | None = None

    async def tell(self) -> None:
        """Send every alert that is due."""
        now = self._clock()
        told = [
            a
            for a in await self._book.to_tell()
            if a.labels.get("source") != OUTSIDE and a.severity is not Severity.INFO
        ]
        due = [alert for alert in told if self._is_due(alert, now)]
        if due:
            answers = await self._source.send([postable(alert, self._workspace, now) for alert in due])
            self._troubles = {"": self._troubles.get("", ""), **answers}
            if not any(answers.values()):
                self._sent |= {a.id: (now, a.state is AlertState.ACTIVE, a.acked_by) for a in due}
        self._sent = {a.id: self._sent[a.id] for a in told if a.id in self._sent}

    async def align(self) -> None:
        """Ask what is active there, and bring the silences in line."""
        try:
            self._outside = tuple(firing_of(one) for one in await self._source.active() if not self._is_ours(one))
            await self._align_silences()
            self._troubles.pop("", None)
        except (Unreachable, Conflict) as error:
            self._troubles[""] = error.message

    def firing(self) -> tuple[Firing, ...]:
        """What others' evaluators say holds. While nobody answers, what held before: silence is not an all-clear."""
        if self._outside is not None and "" not in self._troubles:
            return self._outside
        return tuple(
            Firing(a.name, a.severity, a.summary, a.service, a.env, a.labels)
            for a in self._book.active()
            if a.labels.get("source") == OUTSIDE
        )

    def facts(self) -> list[AdapterFact]:
        """Each peer, and what is wrong with it."""
        return [
            AdapterFact(f"alertmanager {url}" if url else "alertmanager", error)
            for url, error in self._troubles.items()
            if error
        ]

    async def close(self) -> None:
        """Say what was raised since the last turn, and let go of the connections."""
        try:
            async with asyncio.timeout(LAST_WORD_S):
                await self.tell()
        except Exception as error:  # whatever it is, the engine stops
            log.warning("what was raised just now is told to Alertmanager after the next start: %r", error)
        finally:
            await self._source.close()

    def _is_ours(self, alert: OutsideAlert) -> bool:
        return alert.labels.get("workspace") == self._workspace and "airboss_fingerprint" in alert.labels

    def _is_due(self, alert: AlertRecord, now: float) -> bool:
        """Never sent, changed since, or not said for a while; ends only while they are young."""
        at, was_active, acked_by = self._sent.get(alert.id, (0.0, True, ""))
        is_active = alert.state is AlertState.ACTIVE
        if alert.ends_at is not None and now - alert.ends_at > ENDED_AGAIN_S:
            return False
        if not at or (was_active, acked_by) != (is_active, alert.acked_by):
            return True
        return not 0 <= now - at < RESEND_S

    async def _align_silences(self) -> None:
        """Ours are made there; ended here they end there, and the other way round: where they hold is where they are ended."""
        known: dict[str, str] = json.loads(await self._store.read(lambda s: ids.get(s, SILENCES_KEY, "{}")))
        ours = {str(one.id): one for one in self._book.silences()}
        if not known and not ours:
            return
        there = {one.id: one for one in await self._source.silences()}
        after = dict(known)
        for number, remote in known.items():
            if number not in ours:
                if remote in there and not there[remote].is_over:
                    await self._source.expire(remote)
                del after[number]
            elif remote in there and there[remote].is_over:
                await self._book.unsilence(int(number), "system:alertmanager", "it was ended in Alertmanager")
                del after[number]
        for number, silence in ours.items():
            if number not in known:
                after[number] = await self._make(number, silence, there.values())
        if after != known:
            await self._store.write(lambda s: _keep(s, after))

    async def _make(self, number: str, silence: SilenceRecord, there: Any) -> str:
        comment = f"{silence.reason} [airboss {self._workspace} silence {number}]"
        for one in there:  # made by an engine that was killed before it could write so
            if one.comment == comment and not one.is_over:
                return str(one.id)
        return await self._source.silence(
            matchers_of(silence.matchers), by=silence.created_by, comment=comment, starts_at=silence.starts_at, ends_at=silence.ends_at
        )  # fmt: skip


def _keep(session: Session, known: Mapping[str, str]) -> None:
    ids.put(session, SILENCES_KEY, json.dumps(dict(known), sort_keys=True))
