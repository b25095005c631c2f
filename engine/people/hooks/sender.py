"""The loop that tells hooks: its own task, own threads, a deadline on each try; it holds up nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from engine.observe.sending import Undelivered, post, run_command, secret_of
from engine.people.hooks import outbox
from engine.people.hooks.outbox import Delivery
from engine.people.hooks.signing import headers, key_of
from state.hook_config import Hook
from state.store import Store
from state.words import AirbossError, ConfigError

log = logging.getLogger("airboss.hooks")

LOOK_S = 0.5
AGAIN_S = 5.0
"""How long a store that takes nothing (a full disk) is left alone."""
THREADS = 2


class HookSender:
    """Makes deliveries of the audit log's new rows and sends them, each hook's in order, hooks beside one another."""

    def __init__(self, store: Store, hooks: Mapping[str, Hook], workspace: str) -> None:
        self._store = store
        self._hooks = hooks
        self._workspace = workspace
        self._seen = -1
        self._sending: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="hook")
        self.wake = asyncio.Event()

    async def run(self) -> None:
        """Look and send until cancelled."""
        try:
            while True:
                self.wake.clear()
                try:
                    await self.tick()
                except AirbossError as error:
                    log.error("hooks: %s", error)
                    await asyncio.sleep(AGAIN_S)
                with contextlib.suppress(TimeoutError):  # not `wait_for`: see the controller's loop
                    async with asyncio.timeout(LOOK_S):
                        await self.wake.wait()
        finally:
            for task in self._sending.values():
                task.cancel()
            await asyncio.gather(*self._sending.values(), return_exceptions=True)
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def tick(self) -> None:
        """One look: new deliveries, then a try for each hook whose oldest is due and that is not being told already."""
        if not self._hooks:
            return
        newest = await self._store.read(outbox.newest)
        if newest != self._seen:
            await self._store.write(lambda s: outbox.collect(s, self._hooks, self._workspace))
            self._seen = newest if await self._is_collected(newest) else -1
        free = [name for name in self._hooks if name not in self._sending]
        now = time.time()
        for delivery in await self._store.read(lambda s: outbox.heads(s, free, now)):
            task = asyncio.create_task(self._tell(delivery), name=f"hook-{delivery.hook}")
            self._sending[delivery.hook] = task
            task.add_done_callback(partial(self._told, delivery.hook))

    async def _is_collected(self, newest: int) -> bool:
        return await self._store.read(lambda s: outbox.is_collected(s, tuple(self._hooks), newest))

    def _told(self, name: str, _task: asyncio.Task[None]) -> None:
        self._sending.pop(name, None)
        self.wake.set()

    async def _tell(self, delivery: Delivery) -> None:
        try:
            await self._send(self._hooks[delivery.hook], delivery)
            error = ""
        except (Undelivered, ConfigError) as failure:
            error = str(failure)
            log.warning("hook %s was not told of %s: %s", delivery.hook, delivery.event, error)
        except Exception as failure:
            log.exception("hook %s", delivery.hook)
            error = f"{type(failure).__name__}: {failure}"
        await self._settle(delivery, error)

    async def _settle(self, delivery: Delivery, error: str) -> None:
        """Write down how a try went, and keep at it: one that is not would be sent again at once, and again."""
        while True:
            try:
                await self._store.write(lambda s: outbox.settle(s, delivery.id, error, time.time()))
            except AirbossError as trouble:
                log.error("hook %s: %s went out and cannot be written down: %s", delivery.hook, delivery.event, trouble)
                await asyncio.sleep(AGAIN_S)
            else:
                return

    async def _send(self, hook: Hook, delivery: Delivery) -> None:
        body = delivery.body.encode()
        if hook.url is not None:
            secret = secret_of(hook.secret) if hook.secret else None
            if secret is not None and not key_of(secret):
                raise ConfigError(f"{hook.secret} is empty", hint="put the secret there: without it anybody could sign")
            await post(hook.url, body, headers(secret, delivery.delivery_id, int(time.time()), body))
            return
        variables = {"AIRBOSS_EVENT": delivery.event, "AIRBOSS_DELIVERY": delivery.delivery_id}
        await asyncio.get_running_loop().run_in_executor(self._threads, run_command, hook.command, body, variables)
