"""A sample of live answers, checked after the user has them: bounded, timed out, and counted by track.

A check never costs a user anything: what does not fit into the queue is dropped, and counted as that. A judge that gives
no word makes no evidence: the answer is neither good nor bad.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field

from adapters.access import SafetyRule
from adapters.measures import QualityCheck, QualityPolicy
from adapters.ports import Route
from engine.gateway.access.safety.hooks import HookFailed, Hooks, Question
from engine.gateway.access.safety.review import CheckCounts, CheckKey
from engine.gateway.counts import Counts, RowKey
from engine.gateway.logs import log
from engine.gateway.quality.checks import ASKED, is_good
from engine.gateway.routing.compare import Sample, text_of

CHECKED_BYTES = 512 << 10
"""What is kept of an answer to be checked: as events of a stream, some two thousand tokens."""
VERDICTS = ("pass", "fail", "error")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to be looked at, and the row it is counted in."""

    key: RowKey
    policy: QualityPolicy
    sample: Sample


@dataclass(slots=True, eq=False)
class Lane:
    """The answers of one service: how many are looked at now, and which wait."""

    running: int = 0
    waiting: deque[Answer] = field(default_factory=deque)


class Sampler:
    """Looks at answers off the request's path."""

    def __init__(self, counts: Counts, checks: CheckCounts) -> None:
        self.dropped = 0
        """Answers that the bounds did not allow, or that could not be read."""
        self._counts = counts
        self._checks = checks
        self._hooks = Hooks()
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Answers are looked at."""
        return bool(self._tasks)

    def wants(self, route: Route) -> bool:
        """Whether this request's answer is one of the sample."""
        quality = route.measures.quality if route.measures is not None else None
        return quality is not None and random.random() * 100 < quality.sample

    def offer(self, key: RowKey, route: Route, sample: Sample) -> None:
        """Take a whole, successful answer, now or when its turn comes."""
        quality = route.measures.quality if route.measures is not None else None
        if quality is None:
            return
        lane = self._lanes.setdefault((route.service, route.env), Lane())
        answer = Answer(key, quality, sample)
        if sample.length > sample.limit:  # its end is not there: a format could not be told
            self.dropped += 1
        elif lane.running < quality.concurrency:
            self._start(lane, answer)
        elif len(lane.waiting) < quality.queue:
            lane.waiting.append(answer)
        else:
            self.dropped += 1

    async def close(self) -> None:
        """Leave off: a worker that goes does not wait for judges."""
        for lane in self._lanes.values():
            lane.waiting.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hooks.close()

    def _start(self, lane: Lane, answer: Answer) -> None:
        lane.running += 1
        task = asyncio.create_task(self._look_at(answer), name="quality")
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(lane, done))

    def _ended(self, lane: Lane, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        lane.running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            self.dropped += 1
            log("quality_check_failed", error=f"{type(error).__name__}: {error}")
        if lane.waiting and not task.cancelled():
            self._start(lane, lane.waiting.popleft())

    async def _look_at(self, answer: Answer) -> None:
        text = await asyncio.to_thread(text_of, bytes(answer.sample.head))
        if text is None:
            self.dropped += 1
            return
        verdicts = [await self._verdict(answer, check, text) for check in answer.policy.checks]
        if "fail" in verdicts:
            self._counts.checked(answer.key, is_good=False)
        elif "error" not in verdicts:
            self._counts.checked(answer.key, is_good=True)

    async def _verdict(self, answer: Answer, check: QualityCheck, text: str) -> str:
        if check.kind in ASKED:
            verdict = await self._asked(answer.key, check, text)
        else:
            verdict = "pass" if await asyncio.to_thread(is_good, check, text) else "fail"
        key = answer.key
        self._checks.count(CheckKey(key.service, key.env, key.release_id, key.track, check.name, verdict))
        return verdict

    async def _asked(self, key: RowKey, check: QualityCheck, text: str) -> str:
        rule = SafetyRule(
            check.name,
            check.kind,
            on="answer",
            action="flag",
            url=check.url,
            command=check.command,
            timeout_s=check.timeout_s,
        )
        try:
            said = await self._hooks.ask(rule, Question("answer", key.service, key.env, key.release_id, ""), [text])
        except HookFailed as error:
            log("quality_judge_failed", check=check.name, error=str(error))
            return "error"
        return "pass" if said.ok else "fail"
