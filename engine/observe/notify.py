"""Telling somebody: a webhook and a command hook, for each alert that begins, ends, or waits unacknowledged.

What is due comes from the record (`lifecycle.notices`), so a crash between an alert and its delivery delays it and loses
nothing; the other crash, between a delivery and its record, delivers twice. Every failure is kept on the alert.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import stamina

from engine.observe.alerts import AlertBook
from engine.observe.lifecycle import AlertRecord, Notice, notices
from engine.observe.outbound import open_client
from state.config import AlertsConfig
from state.words import ConfigError

WEBHOOK_TIMEOUT_S = 5.0
WEBHOOK_ATTEMPTS = 3
COMMAND_TIMEOUT_S = 10.0
RETRY_AFTER_S = 30.0
"""How long a delivery that failed, its retries included, waits for its next try."""
AT_ONCE = 4
_PASSED_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "USER")


class Undelivered(Exception):
    """A hook did not take a notice; the text says why, without the hook's secrets."""


def secret_of(reference: str) -> str:
    """The value that `env:NAME` or `file:PATH` refers to; anything else is the value itself. Raises ConfigError."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name not in os.environ:
            raise ConfigError(f"the environment has no {name}", hint="set it where the engine is started")
        return os.environ[name].strip()
    if kind == "file" and not name.startswith("//"):
        try:
            return Path(name).expanduser().read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(
                f"{name} cannot be read: {error.strerror}", hint="make it readable to the engine"
            ) from error
    return reference


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
        if self._config.webhook:
            hooks.append(post(self._config.webhook, body))
        if self._config.command:
            loop = asyncio.get_running_loop()
            hooks.append(loop.run_in_executor(self._threads, run_command, self._config.command, body))
        return hooks


def _told_at(alert: AlertRecord, now: float) -> float:
    """When it was told; never before its end, or the end would be told again."""
    return now if alert.ends_at is None else max(now, alert.ends_at)


async def post(reference: str, body: Mapping[str, Any]) -> None:
    """POST `body` to the webhook, a few tries with backoff, each with its deadline. Raises Undelivered, ConfigError."""
    url = secret_of(reference)
    try:
        async with await open_client(WEBHOOK_TIMEOUT_S) as client:
            async for attempt in stamina.retry_context(
                on=_is_worth_retrying,
                attempts=WEBHOOK_ATTEMPTS,
                timeout=WEBHOOK_TIMEOUT_S * 3,
                wait_initial=0.2,
                wait_max=2,
            ):
                with attempt:
                    (await client.post(url, json=body)).raise_for_status()
    except httpx.HTTPStatusError as error:
        raise Undelivered(f"webhook {_shown(url)}: it answered {error.response.status_code}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Undelivered(f"webhook {_shown(url)}: {type(error).__name__}: {error}".replace(url, _shown(url))) from None


def _is_worth_retrying(error: Exception) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code == 429 or error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _shown(url: str) -> str:
    """Scheme and host only: a webhook's path and query are its secret."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or '?'}"
    except ValueError:
        return "(not a URL)"


def run_command(command: Sequence[str], body: Mapping[str, Any], timeout_s: float = COMMAND_TIMEOUT_S) -> None:
    """Run the hook with `body` as JSON on its stdin, no shell, in a group of its own. Blocks. Raises Undelivered."""
    env = {name: os.environ[name] for name in _PASSED_ENV if name in os.environ}
    env |= {"AIRBOSS_ALERT": body["commonLabels"]["alertname"], "AIRBOSS_STATUS": body["status"]}
    name = Path(command[0]).name
    # Files, not pipes: a grandchild that keeps a pipe open would hold this thread for as long as it lives.
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as stderr:
        stdin.write(json.dumps(body).encode())
        stdin.seek(0)
        try:
            hook = subprocess.Popen(
                command, stdin=stdin, stdout=subprocess.DEVNULL, stderr=stderr, env=env, start_new_session=True
            )
        except OSError as error:
            raise Undelivered(f"command {name}: {error.strerror}") from error
        try:
            code = hook.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(hook.pid, signal.SIGKILL)
            hook.wait()
            raise Undelivered(f"command {name}: it took longer than {timeout_s:g} s and was killed") from None
        if code != 0:
            stderr.seek(0, os.SEEK_END)
            stderr.seek(max(0, stderr.tell() - 300))
            said = stderr.read().decode("utf-8", "replace").strip()
            raise Undelivered(f"command {name}: exit {code}" + (f": {said}" if said else ""))
