"""The registry worker's host: started on first use, watched like every other child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from adapters.guard import Guard
from adapters.local.handshakes import handshake
from adapters.local.places import Place, Slot
from adapters.local.supervisor import Supervisor
from adapters.ports import Registry
from adapters.registry_client import RegistryClient
from state.digests import canonical_json, text_sha256
from state.paths import Paths
from state.registry_config import RegistryConfig
from state.secret import env_names
from state.words import Unreachable

MODULE = "adapters.registry_worker"
OWNER = "registry"
START_S = 90.0
T = TypeVar("T")


class RegistryHost:
    """Hands out the registry; the worker process behind it is started when it is first asked for."""

    def __init__(self, supervisor: Supervisor, config: RegistryConfig, paths: Paths) -> None:
        self.supervisor = supervisor
        self.config = config
        self.paths = paths
        self.guard = Guard("registry", goes_on="traffic, rollouts, rollbacks; moves of aliases wait")
        # Threads of its own: a registry that hangs holds up nobody else's.
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="registry")

    async def through(self, work: Callable[[], T]) -> T:
        """What the blocking `work` on the registry's client returns, behind the guard."""
        loop = asyncio.get_running_loop()
        limit_s = 4 * call_timeout_s(self.config.timeout)
        return await self.guard.call(lambda: loop.run_in_executor(self._threads, work), limit_s=limit_s)

    async def socket(self) -> str:
        """The worker's socket, once it takes calls. Raises Unreachable when it does not come up in time.

        One that cannot open its registry takes them too: each tries again, and says why it cannot.
        """
        place = await self._place()
        deadline = asyncio.get_running_loop().time() + START_S
        while not place.is_ready:
            if asyncio.get_running_loop().time() > deadline:
                raise Unreachable(
                    f"the registry worker was not ready within {START_S:.0f} s",
                    hint=f"its log: {self.paths.logs / (place.child.spec.spawn_id + '.log')}",
                )
            said = await handshake(place.child.spec)
            if said is not None and said.get("error"):
                break
            await asyncio.sleep(0.05)
        return place.child.spec.socket

    async def client(self) -> Registry:
        """The registry, behind its worker."""
        return RegistryClient(Path(await self.socket()), call_timeout_s=call_timeout_s(self.config.timeout))

    async def adopt(self) -> None:
        """Watch again the worker that an earlier engine left alive."""
        await self._place()

    def is_awake(self) -> bool:
        """A server's, or an embedded one whose worker runs."""
        return self.config.url is not None or OWNER in self.supervisor.places

    def state(self) -> str:
        """In a word: "up", "starting", "asleep" before the first use."""
        place = self.supervisor.places.get(OWNER)
        if place is None:
            return "asleep (starts on first use)"
        return "up" if place.is_ready else "starting"

    async def _place(self) -> Place:
        payload, access = self._payload(), self.config.access
        # The digest is the configuration's: a worker for another server is not adopted.
        slot = Slot(
            OWNER, "registry", MODULE, payload=lambda spawn_id: payload,
            digest=text_sha256(canonical_json(payload))[:16], passed_env=env_names(access.token, access.password),
        )  # fmt: skip
        return await self.supervisor.want(slot)

    def _payload(self) -> dict[str, Any]:
        if not self.config.url:
            return {"mlflow_dir": str(self.paths.mlflow)}
        access = self.config.access.model_dump(exclude_none=True)
        return {
            "url": self.config.url,
            "root": str(self.paths.root),
            "access": access,
            "timeout_s": self.config.timeout,
        }


def call_timeout_s(request_timeout_s: float) -> float:
    """How long one call of the port may take: the few requests it makes, each with its own limit, and a margin.

    The worker's own answer says what was slow; this limit is for a worker that hangs.
    """
    return 3 * request_timeout_s + 5
