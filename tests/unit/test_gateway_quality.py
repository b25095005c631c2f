"""Answers are checked by the sample's bounds, counted by track, and what was not looked at is no evidence."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from adapters.measures import Measures, QualityCheck, QualityPolicy
from adapters.ports import Backend, Route
from engine.gateway.access.safety.review import CheckCounts
from engine.gateway.counts import Counts, RowKey, TotalKey
from engine.gateway.quality.sampler import CHECKED_BYTES, Sampler
from engine.gateway.routing.compare import Sample
from engine.gateway.table import RoutingTable

SHORT = QualityCheck("short", "length", max_chars=8)
BACKEND = Backend("canary", "chat-2", 100, (("r1", "unix:/nowhere"),))


def answer(text: str) -> Sample:
    sample = Sample(CHECKED_BYTES)
    sample.add(json.dumps({"choices": [{"message": {"content": text}}]}).encode())
    return sample


async def looked_at(policy: QualityPolicy, *samples: Sample) -> tuple[int, int, int]:
    """How many were checked, how many of these failed, and how many were not looked at."""
    route = Route("chat", "production", "local", "ro-1", (BACKEND,), 500, 30, measures=Measures(policy))
    table = RoutingTable(1, 0.0, "production", (route,))
    counts = Counts("boot", 0.0)
    sampler = Sampler(counts, CheckCounts())
    for sample in samples:
        sampler.offer(RowKey.of(table, route, BACKEND), route, sample)
    async with asyncio.timeout(60):
        while sampler.is_busy:
            await asyncio.sleep(0.001)
    await sampler.close()
    row = counts.totals.get(TotalKey("chat", "production", "chat-2", "canary"))
    return (row.checked if row else 0, row.failed if row else 0, sampler.dropped)


def policy_of(*checks: QualityCheck, concurrency: int = 4, queue: int = 64) -> QualityPolicy:
    return QualityPolicy(checks, concurrency=concurrency, queue=queue)


async def test_each_answer_counts_once_and_fails_by_any_check() -> None:
    policy = policy_of(SHORT, QualityCheck("no", "forbids", pattern="no"))
    assert await looked_at(policy, answer("yes"), answer("no no no no no"), answer("no")) == (3, 2, 0)


async def test_a_long_stream_is_looked_at_and_one_that_ends_beyond_the_limit_is_not() -> None:
    event = b"data: " + json.dumps({"choices": [{"delta": {"content": "word "}}], "id": "x" * 200}).encode() + b"\n\n"
    long, endless = Sample(CHECKED_BYTES), Sample(CHECKED_BYTES)
    for _ in range(1_500):
        long.add(event)
    for _ in range(3_000):
        endless.add(event)
    assert await looked_at(policy_of(SHORT), long, endless) == (1, 1, 1)


async def test_what_fits_neither_among_the_running_nor_the_waiting_is_dropped() -> None:
    samples = [answer("yes")] * 5
    assert await looked_at(policy_of(SHORT, concurrency=1, queue=2), *samples) == (3, 0, 2)


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('{\"ok\": true}')", (1, 0, 0)),
        ('print(\'{"ok": false, "reason": "dull"}\')', (1, 1, 0)),
        ("raise SystemExit(3)", (0, 0, 0)),
        ("print('yes')", (0, 0, 0)),
    ],
)
async def test_a_judge_that_gives_no_word_makes_no_evidence(program: str, found: tuple[int, int, int]) -> None:
    judge = QualityCheck("judge", "command", command=(sys.executable, "-S", "-c", program), timeout_s=30.0)
    assert await looked_at(policy_of(judge), answer("yes")) == found


async def test_an_answer_without_a_text_is_not_looked_at() -> None:
    sample = Sample(CHECKED_BYTES)
    sample.add(b"<html>")
    assert await looked_at(policy_of(SHORT), sample) == (0, 0, 1)
