"""What the registry holds, for people to look at: each page kept a short while, and shown, with its age, while the registry is down."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from adapters.catalogue import Catalogue, CatalogueDetails, CataloguePage
from state.words import TimedOut, Unreachable

FRESH_S = 15.0
KEPT = 128
"""Pages; the one that was looked at longest ago goes first."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """An answer and when the registry gave it; `trouble` says why it could not be asked again."""

    value: T
    at: float
    trouble: str = ""


class CatalogueCache:
    """Asks the registry, and remembers. `through` makes a blocking call behind the registry's guard."""

    def __init__(
        self,
        client: Callable[[], Awaitable[Any]],
        through: Callable[[Callable[[], Any]], Awaitable[Any]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._through, self._clock = client, through, clock
        self._kept: OrderedDict[tuple[Any, ...], Seen[Any]] = OrderedDict()

    async def models(self, text: str, limit: int, page: str) -> Seen[CataloguePage]:
        """A page of models. Raises Unreachable when the registry is down and this page was never seen."""
        return await self._ask(("models", text, limit, page), lambda c: c.models(text, limit, page))

    async def versions(self, model: str, text: str, limit: int, page: str) -> Seen[CataloguePage]:
        """A page of versions."""
        return await self._ask(("versions", model, text, limit, page), lambda c: c.versions(model, text, limit, page))

    async def details(self, model: str, version: str) -> Seen[CatalogueDetails]:
        """All of one version."""
        return await self._ask(("details", model, version), lambda c: c.details(model, version))

    async def ask_now(self, ask: Callable[[Catalogue], T]) -> T:
        """What the registry says now, for one who acts on it. It takes as long as its bytes do, outside the guard's limit."""
        client = await self._client()
        try:
            return await asyncio.to_thread(ask, client)
        finally:
            client.close()

    async def _ask(self, key: tuple[Any, ...], ask: Callable[[Catalogue], Any]) -> Seen[Any]:
        kept = self._kept.get(key)
        if kept is not None and 0 <= self._clock() - kept.at < FRESH_S:
            self._kept.move_to_end(key)
            return kept
        try:
            value = await self._fetch(ask)
        except (Unreachable, TimedOut) as error:
            if kept is None:
                raise
            return Seen(kept.value, kept.at, error.message)
        seen = self._kept[key] = Seen(value, self._clock())
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return seen

    async def _fetch(self, ask: Callable[[Catalogue], Any]) -> Any:
        client = await self._client()
        try:
            return await self._through(lambda: ask(client))
        finally:
            client.close()
