"""One engine at a time writes in an environment's cluster: a coordination.k8s.io Lease, whose term every write carries.

As client-go does it: who waits sees by its own clock how long the Lease has not been renewed, so that no two clocks need to agree; who
holds it stops in time by its own clock, before another can have it, whether the API server answers or not.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from adapters.kubernetes.client import KubeClient
from state.words import AirbossError, Unreachable

log = logging.getLogger("airboss.kubernetes")
FENCE = "airboss.dev/fence"
DURATION_S = 30.0
RENEW_S = 5.0
Object = dict[str, Any]


class Lease:
    """The Lease at `path`, for `holder`. `term` is this engine's, 0 while it has none; a later holder's is always higher."""

    def __init__(
        self,
        client: KubeClient,
        path: str,
        holder: str,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        duration_s: float = DURATION_S,
    ) -> None:
        self._client, self._path, self.holder = client, path, holder
        self._on_change, self._clock, self.duration_s = on_change, clock, duration_s
        self.term = 0
        self.trouble = "the lease is not held yet"
        self._until = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        """The Lease's version as it was seen last, and since when it is that one."""

    @property
    def is_held(self) -> bool:
        """It is ours, and will be for as long as one request may take."""
        return self.term > 0 and self._clock() < self._until

    def check(self, path: str) -> None:
        """Raise Unreachable when a write to `path` is not ours to make now."""
        if "/leases" in path or path.endswith("reviews") or self.is_held:
            return
        raise Unreachable(
            f"nothing is written in the cluster: {self.trouble or 'the lease could not be renewed in time'}",
            hint="the engine that holds the lease acts; this one goes on by itself once it has it", code="lease_not_held",
        )  # fmt: skip

    def fenced(self, item: Object, operations: Sequence[Object]) -> list[Object]:
        """`operations` on the object, that test its version, and the term with them. Raises Unreachable where a later holder has written."""
        notes = item["metadata"].get("annotations")
        theirs = int((notes or {}).get(FENCE, 0))
        if theirs > self.term:
            raise Unreachable(
                f"{item['metadata']['name']} was written by term {theirs} of the lease, and ours is {self.term}",
                hint="another engine has taken over; this one writes nothing more", code="lease_not_held",
            )  # fmt: skip
        if theirs == self.term or not operations:
            return list(operations)
        key = f"/metadata/annotations/{FENCE.replace('/', '~1')}"
        note = {"op": "add", "path": key, "value": str(self.term)}
        return [
            *operations,
            note if notes else {"op": "add", "path": "/metadata/annotations", "value": {FENCE: str(self.term)}},
        ]

    def signed(self, body: Object) -> Object:
        """An object to be applied or made, with the term. Kinds that are questions carry none."""
        if not self.term or "Review" in str(body.get("kind", "")) or body.get("kind") in ("Lease", "Eviction"):
            return body
        meta = body.get("metadata") or {}
        return {**body, "metadata": {**meta, "annotations": {**(meta.get("annotations") or {}), FENCE: str(self.term)}}}

    async def run(self) -> None:
        """Take it when it is free, renew it, until cancelled; then give it back."""
        try:
            while True:
                await self.turn()
                await asyncio.sleep(RENEW_S)
        finally:
            if self.is_held:
                await asyncio.shield(self._give_back())

    async def turn(self) -> None:
        """One look: renew what is ours, take what nobody renews. An API server that does not answer changes nothing but the time."""
        was = self.is_held
        try:
            await self._look()
        except AirbossError as error:
            if not self.is_held:
                self.trouble = f"the lease could not be renewed: {error.message}"
            log.warning("%s: %s", self._path, error)
        if was != self.is_held:
            log.warning("%s: %s", self._path, f"held, term {self.term}" if self.is_held else self.trouble)
            self._on_change()

    async def _look(self) -> None:
        began = self._clock()
        found = await self._client.get(self._path)
        if found is None:
            parent, _, name = self._path.rpartition("/")
            body = {
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": self._spec(1),
            }  # fmt: skip
            await self._client.create(parent, body)
            self._took(1, began)
            return
        spec, version = found.get("spec") or {}, str(found["metadata"]["resourceVersion"])
        term, holder = int(spec.get("leaseTransitions") or 0), str(spec.get("holderIdentity") or "")
        if version != self._seen[0]:
            self._seen = version, began
        if holder == self.holder and term == self.term:
            await self._put(version, {"renewTime": _stamp()}, spec)
            self._took(term, began)
            return
        lasts_s = float(spec.get("leaseDurationSeconds") or self.duration_s)
        # The engine that came before on this very workspace is gone: two cannot have its lock.
        if holder in ("", self.holder) or began - self._seen[1] >= lasts_s:
            await self._put(version, self._spec(term + 1), spec)
            self._took(term + 1, began)
            return
        self.term, self._until = 0, 0.0
        self.trouble = f"{holder} holds the lease, renewed {spec.get('renewTime', 'at a time it does not say')}"

    async def _put(self, version: str, fields: Mapping[str, Any], known: Mapping[str, Any]) -> None:
        """Raises Conflict when somebody was faster."""
        operations: list[Object] = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/spec", "value": {**known, **fields}},
        ]
        await self._client.patch(self._path, operations)

    def _took(self, term: int, began: float) -> None:
        self.term, self.trouble = term, ""
        self._until = began + self.duration_s - self._client.timeout_s

    async def _give_back(self) -> None:
        try:
            found = await self._client.get(self._path)
            if found is not None and found["spec"].get("holderIdentity") == self.holder:
                await self._put(str(found["metadata"]["resourceVersion"]), {"holderIdentity": ""}, found["spec"])
        except AirbossError as error:
            log.warning("%s was not given back: %s", self._path, error)
        self.term, self._until = 0, 0.0

    def _spec(self, term: int) -> Object:
        return {
            "holderIdentity": self.holder, "leaseDurationSeconds": round(self.duration_s), "acquireTime": _stamp(),
            "renewTime": _stamp(), "leaseTransitions": term,
        }  # fmt: skip


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
