"""What the gateway's workers wrote of copies to a shadow: read as it grows, kept for the rollouts that ask."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from engine.rollouts.pairs import MOST_PAIRS, Pair

log = logging.getLogger("airboss.copies")
KEPT_ROLLOUTS = 8
KEPT_PAIRS = MOST_PAIRS
"""Of a rollout, the newest: more evidence than any verdict wants."""
READ_BYTES = 8 << 20


class Copies:
    """The newest pairs of each rollout, from `mirror-*.jsonl` in the gateway's directory. A new engine reads them again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: dict[Path, int] = {}
        self._pairs: dict[tuple[str, str, str], deque[Pair]] = {}
        self._lock = asyncio.Lock()

    async def pairs(self, service: str, env: str, rollout_id: str, since: float) -> Sequence[Pair]:
        """The rollout's pairs whose request began at `since` or later, oldest first."""
        async with self._lock:
            return await asyncio.to_thread(self._found, (service, env, rollout_id), since)

    def _found(self, key: tuple[str, str, str], since: float) -> list[Pair]:
        self._catch_up(key)
        return sorted((pair for pair in self._pairs.get(key, ()) if pair.at >= since), key=lambda pair: pair.at)

    def _catch_up(self, asked: tuple[str, str, str]) -> None:
        there = sorted(self._directory.glob("mirror-*.jsonl"))
        for gone in set(self._read) - set(there):
            del self._read[gone]
        for path in there:
            try:
                while self._take(path):
                    pass
            except OSError as error:
                log.warning("%s cannot be read: %s; it is tried again", path, error)
        if asked in self._pairs:
            self._pairs[asked] = self._pairs.pop(asked)  # the last to be let go of: somebody waits for it
        while len(self._pairs) > KEPT_ROLLOUTS:
            self._pairs.pop(next(iter(self._pairs)))

    def _take(self, path: Path) -> bool:
        """Take the next lines; whether there were any."""
        begun = self._read.get(path, 0)
        if path.stat().st_size <= begun:
            return False
        with path.open("rb") as file:
            file.seek(begun)
            text = file.read(READ_BYTES)
        # The last line may be half written: it is read whole the next time.
        whole = text[: text.rfind(b"\n") + 1]
        self._read[path] = begun + len(whole)
        for line in whole.splitlines():
            try:
                body = json.loads(line)
                key = (str(body["service"]), str(body["env"]), str(body["rollout_id"]))
                pair = Pair(
                    at=float(body["at"]), code=int(body["code"]), latency_ms=float(body["latency_ms"]),
                    length=int(body["bytes"]), result=str(body["result"]), shadow_code=int(body["shadow_code"]),
                    shadow_latency_ms=float(body["shadow_latency_ms"]), shadow_length=int(body["shadow_bytes"]),
                    distance=None if body["distance"] is None else float(body["distance"]),
                )  # fmt: skip
            except (ValueError, KeyError, TypeError):
                continue  # a torn line is no pair
            if key[2]:
                self._pairs.setdefault(key, deque(maxlen=KEPT_PAIRS)).append(pair)
        return bool(whole)
