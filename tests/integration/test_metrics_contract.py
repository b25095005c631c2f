"""The embedded scraper and a real Prometheus, beside the same gateway under the same traffic: the same answers within 2 %."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from adapters.ports import ArmEvidence
from adapters.profiles.catalogue import reading_of
from adapters.profiles.probe import probe
from adapters.profiles.profile import Place
from adapters.prometheus import PrometheusMetrics
from engine.observe.evidence import EmbeddedMetrics
from engine.observe.scraper import Scraper
from state.metrics_config import ProfileChoice
from state.store import Store
from state.words import NoDataCause
from tests.integration.gateway_deck import ask, opened_deck
from tests.monitoring_servers import free_ports_in_row, needs_prometheus, prometheus


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


def sums(seen: ArmEvidence) -> dict[str, int]:
    return {
        f"{arm} {what}": sum(getattr(getattr(one, arm), what) for one in seen.intervals)
        for arm in ("stable", "canary")
        for what in ("requests", "errors", "slow")
    }


@needs_prometheus
async def test_both_sources_answer_the_same_and_a_server_that_goes_away_is_no_data(
    store: Store, tmp_path: Path
) -> None:
    async with opened_deck() as deck:
        for name in ("s1", "s2", "c1"):
            deck.backend(name)
        first = free_ports_in_row(2)
        workers = ["g-1", "g-2"]
        for slot, name in enumerate(workers):
            deck.worker(name, worker=slot, metrics=["127.0.0.1", first + slot])
        await deck.backends_up("s1", "s2", "c1")
        await deck.is_up(*workers)
        await deck.put(workers, deck.table(1, 50))
        server = prometheus(tmp_path / "prometheus", [f"127.0.0.1:{first + slot}" for slot in range(2)])
        outside = PrometheusMetrics(server.url, step_s=1)
        engine = Scraper(store, lambda: tuple((name, deck.sock(name)) for name in workers), deck.dir)
        embedded = EmbeddedMetrics(store, engine, time.time)

        async def both(since: float) -> tuple[ArmEvidence, ArmEvidence]:
            await engine.tick()
            return (
                await embedded.arms("chat", "production", "ro-1", 1, since),
                await outside.arms("chat", "production", "ro-1", 1, since),
            )

        # A counter's life before its first scrape is not evidence: both must see the workers before the traffic begins.
        deadline = time.monotonic() + 30
        while not (seen := (await both(time.time() - 30))[1]).intervals:
            assert time.monotonic() < deadline, seen
            await asyncio.sleep(0.2)
        since = time.time() - 3
        async with aiohttp.ClientSession() as session:
            for number in range(300):
                body = {"status": 500} if number % 20 == 0 else {"sleep_ms": 320} if number % 75 == 1 else {}
                await ask(session, deck.url, **body)
        deadline = time.monotonic() + 30
        while True:
            ours, theirs = map(sums, await both(since))
            counted = [one["stable requests"] + one["canary requests"] for one in (ours, theirs)]
            if counted == [300, 300]:
                break
            assert time.monotonic() < deadline, (ours, theirs)
            await asyncio.sleep(0.3)
        assert ours["stable errors"] + ours["canary errors"] > 0 and ours["stable slow"] + ours["canary slow"] > 0
        for name, number in ours.items():
            assert theirs[name] == pytest.approx(number, rel=0.02, abs=0.5), (name, ours, theirs)

        own = reading_of(ProfileChoice(), Place("chat", "production", None, 0.0))
        probed = await asyncio.to_thread(probe, own, outside.server)
        assert (probed.trouble, probed.tracks) == ("", ("stable", "canary"))
        for word, query in own.words("60s", "1s").items():
            query = query.replace("$where", own.scope)
            answer = await asyncio.to_thread(outside.server.instant, query, time.time(), timeout_s=5.0)
            assert {labels["track"] for labels, _ in answer.series} >= {"stable", "canary"}, (word, query)

        server.stop()
        gone = await outside.arms("chat", "production", "ro-1", 1, since)
        assert (
            not gone.intervals and gone.trouble.startswith(NoDataCause.UNREACHABLE) and outside.trouble == gone.trouble
        )
        server.start()
        assert (await outside.arms("chat", "production", "ro-1", 1, since)).intervals and not outside.trouble
        server.stop()
        await engine.close()


async def test_a_metrics_port_that_is_taken_hinders_no_traffic_and_is_had_once_it_is_free() -> None:
    async with opened_deck() as deck:
        deck.backend("s1")
        first = free_ports_in_row(1)
        taken = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", first)
        deck.worker("g-1", metrics=["127.0.0.1", first])
        await deck.backends_up("s1")
        await deck.is_up("g-1")
        await deck.put(["g-1"], deck.table(1, None, stable=("s1",)))
        async with aiohttp.ClientSession() as session:
            assert (await ask(session, deck.url))[0] == 200
            assert "metrics_port_taken" in (deck.root / "g-1.log").read_text()
            taken.close()
            await taken.wait_closed()
            deadline = time.monotonic() + 20
            while True:
                try:
                    async with session.get(f"http://127.0.0.1:{first}/metrics") as page:
                        text = await page.text()
                    break
                except aiohttp.ClientError:
                    assert time.monotonic() < deadline
                    await asyncio.sleep(0.1)
        assert 'airboss_track_weight{env="production",release="chat-1",service="chat",track="stable"} 100.0' in text
