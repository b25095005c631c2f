"""Telling somebody: a webhook and a command hook, for each alert that begins, ends, or waits unacknowledged.

What is due comes from the record (`lifecycle.notices`), so a crash between an alert and its delivery delays it and loses
nothing; the other crash, between a delivery and its record, delivers twice. Every failure is kept on the alert.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from engine.observe.alerts import AlertBook
from engine.observe.lifecycle import AlertRecord, Notice, notices
from engine.observe.sending import Undelivered, post, run_command
from state.alerts_config import AlertsConfig
from state.words import ConfigError

RETRY_AFTER_S = 30.0
"""How long a delivery that failed, its retries included, waits for its next try."""
AT_ONCE = 4


def payload(notice: Notice, workspace: str) -> dict[str, Any]:
    """The notice as Alertmanager's webhook would send it (version 4, one alert), which most receivers take as it is."""
    alert = notice.alert
    labels = {**alert.labels, "alertname": alert.name, "severity": alert.severity.value, "workspace": workspace}
    labels |= {name: value for name, value in (("service", alert.service), ("env", alert.env)) if value}
    annotations = {"summary": alert.summary, "alert_id": str(alert.id), "reminder": str(notice.is_reminder).lower()}
    if alert.acked_by:
        annotations["acked_by"] = alert.acked_by
    return {
        "version": "4",
        "receiver": "airboss",
        "status": notice.status,
        "groupKey": alert.fingerprint,
        "groupLabels": {"alertname": alert.name},
        "commonLabels": labels,
        "commonAnnotations": annotations,
        "externalURL": "",
        "alerts": [
            {
                "status": notice.status,
                "labels": labels,
                "annotations": annotations,
                "startsAt": _rfc3339(alert.starts_at),
                "endsAt": _rfc3339(alert.ends_at) if alert.ends_at is not None else "0001-01-01T00:00:00Z",
                "fingerprint": alert.fingerprint,
                "generatorURL": "",
            }
        ],
    }


def _rfc3339(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Notifier:
    """Delivers what is due. `tick` as often as one likes; it waits for its deliveries."""

    def __init__(
        self, book: AlertBook, config: AlertsConfig, *, workspace: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._book = book
        self._config = config
        self._workspace = workspace
        self._clock = clock
        self._not_before: dict[int, float] = {}
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="alert-hook")

    @property
    def tells_somebody(self) -> bool:
        """There is a hook at all."""
        return bool(self._config.webhook or self._config.command)

    async def tick(self) -> int:
        """Deliver everything that is due now; returns how many notices some hook took."""
        if not self.tells_somebody:
            return 0
        now = self._clock()
        due = [
            notice
            for notice in notices(await self._book.to_tell(), self._book.silences(), now)
            if not now < self._not_before.get(notice.alert.id, 0.0) <= now + RETRY_AFTER_S
        ]
        return sum(await asyncio.gather(*(self._tell(notice) for notice in due)))

    def close(self) -> None:
        """Let the hooks' threads go; a hook that runs is left to its own timeout."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _tell(self, notice: Notice) -> bool:
        body = payload(notice, self._workspace)
        async with self._gate:
            outcomes = await asyncio.gather(*self._hooks(body), return_exceptions=True)
        failures = []
        for outcome in outcomes:
            if isinstance(outcome, Undelivered | ConfigError):
                failures.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
        is_taken = len(failures) < len(outcomes)
        now = self._clock()
        if is_taken:
            self._not_before.pop(notice.alert.id, None)
        else:
            self._not_before[notice.alert.id] = now + RETRY_AFTER_S
        await self._book.told(notice.alert.id, _told_at(notice.alert, now) if is_taken else None, "; ".join(failures))
        return is_taken

    def _hooks(self, body: Mapping[str, Any]) -> list[Any]:
        hooks: list[Any] = []
        text = json.dumps(body).encode()
        if self._config.webhook:
            hooks.append(post(self._config.webhook, text))
        if self._config.command:
            loop = asyncio.get_running_loop()
            told = {"AIRBOSS_ALERT": body["commonLabels"]["alertname"], "AIRBOSS_STATUS": body["status"]}
            hooks.append(loop.run_in_executor(self._threads, run_command, self._config.command, text, told))
        return hooks


def _told_at(alert: AlertRecord, now: float) -> float:
    """When it was told; never before its end, or the end would be told again."""
    return now if alert.ends_at is None else max(now, alert.ends_at)
