"""The scraper against real Unix sockets, real files and a real store: each snapshot once, whatever dies."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from sqlalchemy import func, text
from sqlmodel import Session, select

from engine.observe.evidence import EmbeddedMetrics
from engine.observe.fold import CountRow
from engine.observe.minutes import Promise, read_status
from engine.observe.scraper import Scraper, Worker
from engine.observe.slo import Minute, slo_status, tally, window_minutes
from state.config import Slo
from state.models import Evidence, Rollout, SliMinute
from state.store import Store
from state.words import OperationFailed

START = 1_700_000_000.0


@dataclass
class FakeWorker:
    """A gateway worker's admin side: it counts what it is told to, remembers the last `keeps`, and writes its file."""

    spawn_id: str
    socket: Path
    counts_dir: Path
    keeps: int = 600
    says: str = ""
    seq: int = 0
    kept: list[dict[str, Any]] = field(default_factory=list)

    def count(
        self, stable: int, canary: int = 0, errors: int = 0, rollout: str = "ro-1", revision: int = 5, **more: Any
    ) -> None:
        self.seq += 1
        rows = [
            {
                "service": "chat", "env": "production", "target": "local", "track": track, "release_id": f"charlm-{track}",
                "rollout_id": rollout, "table_revision": revision, "requests": n, "errors": bad, "slow": 0,
                "codes": {"ok": n - bad, "5xx": bad}, "latency": {"buckets": {"0.1": n, "+Inf": n}, "sum": 0.01 * n},
                "ttft": {"buckets": {}, "sum": 0}, "tokens": n, "tokens_in": n, "attempt_failures": 0, **(more if track == "canary" else {}),
            }
            for track, n, bad in (("stable", stable, 0), ("canary", canary, errors))
        ]  # fmt: skip
        snapshot = {"seq": self.seq, "t0": START + self.seq - 1, "t1": START + self.seq, "rows": rows}
        self.kept = [*self.kept, snapshot][-self.keeps :]
        with (self.counts_dir / f"counts-{self.spawn_id}.jsonl").open("a") as file:
            file.write(json.dumps(snapshot) + "\n")

    async def answer(self, request: web.Request) -> web.Response:
        after = int(request.query["after"])
        return web.json_response(
            {"boot_id": self.says or self.spawn_id, "snapshots": [s for s in self.kept if s["seq"] > after]}
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Worker]:
        app = web.Application()
        app.router.add_get("/admin/counts", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        try:
            yield (self.spawn_id, str(self.socket))
        finally:
            await runner.cleanup()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def worker(tmp_path: Path) -> Callable[..., FakeWorker]:
    return lambda name, **more: FakeWorker(name, tmp_path / f"{name}.sock", tmp_path, **more)


def scraper(store: Store, tmp_path: Path, *workers: Worker, at: float = START + 60) -> Scraper:
    return Scraper(store, lambda: workers, tmp_path, clock=lambda: at)


def taken(store: Store) -> list[tuple[str, int]]:
    return store.read_now(
        lambda s: sorted(
            (b, n) for b, n in s.exec(select(Evidence.boot_id, Evidence.seq).where(Evidence.track == "stable"))
        )
    )


def requests_in_minutes(store: Store) -> int:
    return store.read_now(lambda s: s.exec(select(func.sum(SliMinute.requests))).one()) or 0


async def test_a_restarted_engine_ingests_nothing_twice_and_misses_nothing(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one, two = worker("g-1"), worker("g-2")
    async with one.serving() as first, two.serving() as second:
        for turn in range(4):
            one.count(3)
            two.count(5, canary=2)
            engine = scraper(store, tmp_path, first, second)
            await engine.tick()
            if turn % 2:
                await engine.tick()
            await engine.close()
    assert taken(store) == sorted((w, n) for w in ("g-1", "g-2") for n in (1, 2, 3, 4))
    assert requests_in_minutes(store) == 4 * (3 + 5 + 2)


async def test_what_a_worker_forgot_while_no_engine_ran_comes_from_its_file(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one = worker("g-1", keeps=3)
    async with one.serving() as address:
        engine = scraper(store, tmp_path, address)
        one.count(1)
        await engine.tick()
        for _ in range(10):
            one.count(2)
        await engine.tick()
        assert engine.status().gaps == 0
    assert [n for _, n in taken(store)] == list(range(1, 12))
    assert requests_in_minutes(store) == 1 + 2 * 10


async def test_a_killed_workers_last_seconds_are_read_from_its_file_once(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one = worker("g-1")
    async with one.serving() as address:
        one.count(4)
        await scraper(store, tmp_path, address).tick()
    one.count(6)
    one.count(7)
    with (tmp_path / "counts-g-1.jsonl").open("a") as file:
        file.write('{"seq": 4, "t0": 17000')  # it was killed in the middle of a line
    for _ in range(2):
        engine = scraper(store, tmp_path)
        await engine.tick()
        await engine.tick()
    assert taken(store) == [("g-1", 1), ("g-1", 2), ("g-1", 3)]
    assert requests_in_minutes(store) == 4 + 6 + 7


async def test_a_worker_that_does_not_answer_is_shown_with_its_age_and_the_others_go_on(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one, now = worker("g-1"), [START + 1.0]
    async with one.serving() as address:
        dead = ("g-9", str(tmp_path / "nobody.sock"))
        engine = Scraper(store, lambda: (address, dead), tmp_path, clock=lambda: now[0])
        one.count(3)
        await engine.tick()
        now[0] += 40
        one.count(3)
        status = await engine.tick()
    by_name = {w.spawn_id: w for w in status.workers}
    assert by_name["g-1"].error == ""
    assert by_name["g-1"].answered_at == now[0]
    assert by_name["g-9"].silent_since == START + 1.0
    assert "Connect" in by_name["g-9"].error
    assert status.trouble(now[0]) == ""
    assert len(taken(store)) == 2
    now[0] += 31
    lost = await engine.tick()
    now[0] += 31
    assert lost.trouble(now[0]).startswith("unreachable: gateway worker")
    await engine.close()


async def test_another_workers_answer_on_a_reused_socket_is_not_taken(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    imposter = worker("g-1", says="g-7")
    async with imposter.serving() as address:
        imposter.count(3)
        status = await scraper(store, tmp_path, address).tick()
    assert taken(store) == []
    assert "g-7" in status.workers[0].error


async def test_a_write_that_fails_loses_nothing(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one = worker("g-1")
    async with one.serving() as address:
        engine = scraper(store, tmp_path, address)
        one.count(3)
        refuse = (
            "CREATE TRIGGER full BEFORE INSERT ON sli_minute BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        await store.write(lambda s: s.execute(text(refuse)) and None)
        with pytest.raises(OperationFailed):
            await engine.tick()
        assert taken(store) == []
        await store.write(lambda s: s.execute(text("DROP TRIGGER full")) and None)
        await engine.tick()
        assert engine.recent.rates("chat", "production", START + 2).requests == 3
    assert taken(store) == [("g-1", 1)]
    assert requests_in_minutes(store) == 3


async def test_the_judge_gets_the_steps_own_counts_and_nothing_from_before(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one, two, now = worker("g-1"), worker("g-2"), [START + 4.0]
    async with one.serving() as first, two.serving() as second:
        engine = Scraper(store, lambda: (first, second), tmp_path, clock=lambda: now[0])
        metrics = EmbeddedMetrics(store, engine, lambda: now[0])
        for revision in (4, 4, 5, 6):
            one.count(10, 1, 1, revision=revision)
            two.count(20, 2, revision=revision)
        one.count(99, 99, rollout="ro-0")
        await engine.tick()
        seen = await metrics.arms("chat", "production", "ro-1", 5, START)
        assert [(i.t0, i.stable.requests, i.canary.requests, i.canary.errors) for i in seen.intervals] == [
            (START + 2, 30, 3, 1),
            (START + 3, 30, 3, 1),
        ]
        assert seen.age_s == 0.0
        assert seen.trouble == ""
        one.count(1, 0, revision=6)
        two.count(0, 0, revision=6)
        now[0] += 3
        await engine.tick()
        later = await metrics.arms("chat", "production", "ro-1", 5, START)
        assert len(later.intervals) == 4
        assert later.intervals[:2] == seen.intervals
        assert sum(i.stable.requests for i in later.intervals) == 61
        assert await metrics.arms("chat", "staging", "ro-1", 5, START) == type(seen)((), 0.0, None)


async def test_the_judge_gets_quality_cost_and_unsafe_answers_by_track(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one = worker("g-1")
    async with one.serving() as first:
        engine = Scraper(store, lambda: (first,), tmp_path, clock=lambda: START + 2)
        metrics = EmbeddedMetrics(store, engine, lambda: START + 2)
        more = {"checked": 4, "failed": 1, "priced": 9, "dear": 2, "busy_s": 0.5}
        one.count(10, 9, unsafe={"ana": 1}, **more)
        one.count(10, 9, unsafe={"ana": 1, "bob": 3}, **more)
        await engine.tick()
        seen = await metrics.arms("chat", "production", "ro-1", 5, START)
    canary = seen.intervals[-1].canary
    assert (canary.checked, canary.failed, canary.priced, canary.dear, canary.busy_s) == (4, 1, 9, 2, 0.5)
    assert seen.intervals[-1].stable.checked == 0
    assert (seen.unsafe_canary.answers, seen.unsafe_canary.callers, seen.unsafe_stable.answers) == (5, 2, 0)


async def test_silence_of_the_whole_gateway_is_trouble_and_no_evidence(store: Store, tmp_path: Path) -> None:
    now = [START]
    engine = Scraper(store, lambda: (), tmp_path, clock=lambda: now[0], catch_up_s=0.0)
    metrics = EmbeddedMetrics(store, engine, lambda: now[0])
    await engine.tick()
    assert (await metrics.arms("chat", "production", "ro-1", 1, START)).trouble == ""
    now[0] += 31
    lost = await metrics.arms("chat", "production", "ro-1", 1, START)
    assert lost.trouble.startswith("unreachable:")
    assert lost.intervals == ()
    assert lost.age_s is None


async def test_an_engine_that_was_away_does_not_take_its_own_absence_for_silence(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one, now = worker("g-1"), [START + 1.0]
    async with one.serving() as address:
        one.count(5, 5, revision=5)
        await scraper(store, tmp_path, address).tick()
        for _ in range(300):
            one.count(5, 5, revision=5)
        now[0] = START + 301.0
        engine = Scraper(store, lambda: (address,), tmp_path, clock=lambda: now[0])
        metrics = EmbeddedMetrics(store, engine, lambda: now[0])
        first_look = asyncio.create_task(metrics.arms("chat", "production", "ro-1", 5, START))
        await asyncio.sleep(0.05)
        assert not first_look.done()
        await engine.tick()
        seen = await first_look
        await engine.close()
    assert (len(seen.intervals), seen.gap_s, seen.age_s) == (301, 0.0, 0.0)


def ended_rollout() -> Rollout:
    return Rollout(
        id="ro-1", service="chat", env="production", target="local", strategy="canary", to_release="charlm-2",
        state="completed", created_by="user:ann", created_at=START, state_since=START, policy={},
    )  # fmt: skip


async def test_rows_of_an_ended_rollout_are_everyday_rows_and_old_ones_go(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one, now = worker("g-1"), [START]
    async with one.serving() as address:
        engine = Scraper(store, lambda: (address,), tmp_path, clock=lambda: now[0])
        one.count(0)
        one.count(5)
        await engine.tick()
        await store.write(lambda s: s.add(ended_rollout()))
        now[0] += 11
        one.count(0)
        one.count(8)
        await engine.tick()
        rows = store.read_now(lambda s: list(s.exec(select(Evidence.seq, Evidence.rollout_id, Evidence.requests))))
        assert rows == [(1, "ro-1", 0), (1, "ro-1", 0), (2, "ro-1", 5), (2, "ro-1", 0), (4, "", 8)]
        now[0] = START + 2 * 3_600
        assert await engine.prune() == 1
        now[0] = START + 25 * 3_600
        assert await engine.prune() == 4
        assert requests_in_minutes(store) == 13


async def test_a_new_engine_fills_its_screens_from_the_store(
    store: Store, tmp_path: Path, worker: Callable[..., FakeWorker]
) -> None:
    one = worker("g-1")
    async with one.serving() as address:
        for _ in range(30):
            one.count(4)
        await scraper(store, tmp_path, address, at=START + 30).tick()
        fresh = scraper(store, tmp_path, address, at=START + 30)
        await fresh.tick()
    assert fresh.recent.rates("chat", "production", START + 30).rps == pytest.approx(4.0, rel=0.05)
    assert all(isinstance(row, CountRow) for row in fresh.recent.rows("chat", "production", START))


def test_the_stores_sums_are_the_pure_ones(store: Store) -> None:
    dice, now, slo = random.Random(7), START + 30, Slo(window_d=4)
    this = int(now // 60)
    history = [
        Minute(this - back, *dice.choice([(0, 0, 0), (40, 3, 5), (90, 0, 9)]), *dice.choice([(0, 0), (12, 0), (12, 5)]))
        for back in range(4 * 1440)
        if dice.random() < 0.7
    ]

    def fill(session: Session) -> None:
        session.add_all(
            SliMinute(service="chat", env="production", minute=m.minute, requests=m.requests, errors=m.errors, slow=m.slow,
                      probes=m.probes, probe_errors=m.probe_errors) for m in history
        )  # fmt: skip
        session.add(SliMinute(service="chat", env="staging", minute=this - 9, requests=7, errors=7))

    store.write_now(fill)
    first = min(m.minute for m in history)
    windows = {300.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0, 3 * 86_400.0, 4 * 86_400.0}
    bounds = {w: window_minutes(w, first, now) for w in windows}
    expected = slo_status(
        "chat", "production", error_limit=slo.error_limit, slow_limit=slo.slow_limit, window_s=4 * 86_400.0,
        tallies={w: tally([m for m in history if low <= m.minute <= high], now) for w, (low, high) in bounds.items()},
        first_minute=first, now=now,
        current_is_covered=any(m.minute == this and m.requests + m.probes for m in history),
    )  # fmt: skip
    found = store.read_now(lambda s: read_status(s, Promise("chat", "production", slo), now))
    assert found.availability.bad_ratio == pytest.approx(expected.availability.bad_ratio)
    assert {**found.burn} == {w: pytest.approx(rate) for w, rate in expected.burn.items()}
    assert (found.coverage, found.requests, found.errors) == (expected.coverage, expected.requests, expected.errors)
    assert found.latency.bad_ratio == pytest.approx(expected.latency.bad_ratio)
