"""A sample of live answers, checked after the user has them: bounded, timed out, and counted by track.

A check never costs a user anything: what does not fit into the queue is dropped, and counted as that. A judge that gives
no word makes no evidence: the answer is neither good nor bad.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from adapters.access import SafetyRule
from adapters.measures import QualityCheck, QualityPolicy
from adapters.ports import Route
from engine.gateway.access.safety.hooks import HookFailed, Hooks, Question
from engine.gateway.access.safety.review import CheckCounts, CheckKey
from engine.gateway.counts import Counts, RowKey
from engine.gateway.lanes import Bounds, Lanes
from engine.gateway.logs import log
from engine.gateway.quality.checks import ASKED, is_good
from engine.gateway.quality.shapes import ShapeKey, Shapes, prompt_text
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
    body: bytes
    """Of the request."""
    is_checked: bool
    is_counted: bool


def _most(quality: QualityPolicy) -> float:
    return max(quality.sample if quality.checks else 0.0, quality.drift)


class Sampler:
    """Looks at answers off the request's path."""

    def __init__(self, counts: Counts, checks: CheckCounts) -> None:
        self.dropped = 0
        """Answers that the bounds did not allow, or that could not be read."""
        self.shapes = Shapes()
        """What kind of text passes."""
        self._counts = counts
        self._checks = checks
        self._hooks = Hooks()
        self._lanes = Lanes("quality", self._look_at, self._could_not)

    @property
    def is_busy(self) -> bool:
        """Answers are looked at."""
        return bool(self._lanes.running)

    def wants(self, route: Route) -> bool:
        """Whether this request's answer is one of the sample."""
        quality = route.measures.quality if route.measures is not None else None
        return quality is not None and random.random() * 100 < _most(quality)

    def offer(self, key: RowKey, route: Route, sample: Sample, body: bytes = b"") -> None:
        """Take a whole, successful answer, now or when its turn comes."""
        quality = route.measures.quality if route.measures is not None else None
        if quality is None:
            return
        # Of those that `wants` took, each use has its own share.
        place = random.random() * _most(quality)
        is_checked = bool(quality.checks) and place < quality.sample
        answer = Answer(key, quality, sample, body, is_checked, is_counted=place < quality.drift)
        bounds = Bounds(quality.concurrency, quality.queue)
        is_whole = sample.length <= sample.limit  # without its end a format could not be told
        if not (is_whole and self._lanes.offer((route.service, route.env), answer, bounds)):
            self.dropped += 1

    async def close(self) -> None:
        """Leave off: a worker that goes does not wait for judges."""
        await self._lanes.close()
        await self._hooks.close()

    def _could_not(self, error: BaseException) -> None:
        self.dropped += 1
        log("quality_check_failed", error=f"{type(error).__name__}: {error}")

    async def _look_at(self, answer: Answer) -> None:
        text = await asyncio.to_thread(text_of, bytes(answer.sample.head))
        if text is None:
            self.dropped += 1
            return
        if answer.is_counted:
            key = answer.key
            prompt = await asyncio.to_thread(prompt_text, answer.body)
            for what, said in (("prompt", prompt), ("answer", text)):
                if said:
                    self.shapes.add(ShapeKey(key.service, key.env, key.release_id, what), said)
        if not answer.is_checked:
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
