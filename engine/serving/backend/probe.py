"""Asking the foreign server for a real token: until it gives the first one, and whenever it has been silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from engine.serving.backend.foreign import Foreign
from engine.serving.backend.launch import Launch
from engine.serving.backend.pulse import Pulse
from engine.serving.backend.settings import ForeignSettings
from engine.serving.logs import log
from state.words import OperationFailed

START_POLL_S = 0.2
AGAIN_S = 1.0
"""After a miss it is asked again so soon: two decide."""
_CONNECT_S = 5.0


class Prober:
    """Keeps the pulse of one foreign server."""

    def __init__(
        self, settings: ForeignSettings, launch: Launch, session: aiohttp.ClientSession, pulse: Pulse, model_name: str
    ) -> None:
        self._settings = settings
        self._launch = launch
        self._session = session
        self._pulse = pulse
        self._route, self._body = probe_request(settings, model_name)

    async def until_ready(self, foreign: Foreign) -> None:
        """Return once it gave its first token, or has ended. Raises OperationFailed when it takes too long."""
        settings, began = self._settings, time.monotonic()
        while not foreign.ended.is_set():
            left_s = began + settings.start_timeout_s - time.monotonic()
            if left_s <= 0:
                raise OperationFailed(
                    f"the {settings.model_dump()['backend']} backend gave no token within "
                    f"{settings.start_timeout_s:g} s: {self._pulse.detail}; its last words: {foreign.last_words()}",
                    hint="correct its command, or give it longer with start_timeout_s",
                    code="backend_not_ready",
                )
            trouble = await self._listens(left_s) or await self._token(left_s)
            if trouble is None:
                self._pulse.prove(time.monotonic())
                return
            if trouble != self._pulse.detail:
                log("backend_not_ready", reason=trouble)
            self._pulse.detail = trouble
            await asyncio.sleep(START_POLL_S)

    async def keep(self) -> None:
        """Ask for a token whenever none came for a while. Until cancelled."""
        while True:
            silent_s = time.monotonic() - self._pulse.proof_at
            wait_s = AGAIN_S if self._pulse.misses else self._settings.probe_every_s - silent_s
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            if not self._pulse.misses and time.monotonic() - self._pulse.proof_at < self._settings.probe_every_s:
                continue
            began = time.monotonic()
            trouble = await self._token(self._settings.stuck_after_s)
            if trouble is None:
                self._pulse.prove(time.monotonic())
            elif self._pulse.proof_at < began:
                # A request that was answered meanwhile is the better proof: the probe only waited in the queue.
                self._pulse.miss(trouble)
                log("backend_probe_failed", reason=trouble, misses=self._pulse.misses)

    async def _listens(self, timeout_s: float) -> str | None:
        if not self._settings.ready_path:
            return None
        try:
            async with self._session.get(
                self._launch.base + self._settings.ready_path, timeout=_within(timeout_s)
            ) as answer:
                return None if answer.status == 200 else f"{self._settings.ready_path} answers {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{self._settings.ready_path} does not answer: {type(error).__name__}"

    async def _token(self, timeout_s: float) -> str | None:
        try:
            async with self._session.post(
                self._launch.base + self._route, json=self._body, timeout=_within(timeout_s)
            ) as answer:
                text = (await answer.content.read(4096)).decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{self._route} gives no token: {type(error).__name__}"
        if answer.status != 200:
            return f"{self._route} answers {answer.status}: {' '.join(text.split())[:200]}"
        return None if '"choices"' in text else f"{self._route} answers without a choice: {text[:200]}"


def probe_request(settings: ForeignSettings, model_name: str) -> tuple[str, Mapping[str, Any]]:
    """Route and body of the request for one token."""
    body: dict[str, Any] = {"model": model_name, "max_tokens": 1, "temperature": 0}
    if settings.probe == "chat":
        return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": "the"}]}
    return "/v1/completions", {**body, "prompt": "the "}


def _within(timeout_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s))
