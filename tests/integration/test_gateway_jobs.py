"""Asynchronous requests through a gateway: two real model servers, and nobody who remembers which of them has a job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_deck import Deck, until
from serving_process import served

SAFETY = {"safety": {"rules": [{"name": "no", "kind": "regex", "on": "both", "action": "block", "patterns": ["s3c"]}]}}
LONG = {"model": "chat", "prompt": "abc", "max_tokens": 9000}
SHORT = {"model": "chat", "prompt": "abc", "max_tokens": 4, "seed": 3}


def table(addresses: list[str], revision: int = 1, shadow: str = "", **route: Any) -> dict[str, Any]:
    backends = [
        {"track": "stable", "release_id": "charlm-1", "weight": 100,
         "replicas": [[f"s{at}", f"unix:{address}"] for at, address in enumerate(addresses)]}
    ]  # fmt: skip
    chat = {
        "service": "chat", "env": "dev", "target": "local", "rollout_id": "", "slow_ms": 300.0, "deadline_s": 20.0,
        "backends": backends, **route,
    }  # fmt: skip
    return {"revision": revision, "issued_at": 0.0, "default_env": "dev", "routes": [chat]}


@pytest.fixture
async def session(deck: Deck) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(deck.url) as opened:
        yield opened


async def submit(session: aiohttp.ClientSession, body: dict[str, Any]) -> str:
    async with session.post("/v1/jobs", json={"endpoint": "/v1/completions", "body": body}) as answer:
        taken = await answer.json()
        assert answer.status == 202, taken
        return str(taken["id"])


async def show(session: aiohttp.ClientSession, job: str) -> tuple[int, dict[str, Any]]:
    async with session.get(f"/v1/jobs/{job}") as answer:
        return answer.status, await answer.json()


async def test_a_job_is_found_and_cancelled_whichever_replica_took_it(
    deck: Deck, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    settings = {"context": 10_000, "layers": 1, "serving": {"max_batch": 1, "kv_cache_mib": 64}}
    with ExitStack() as stack:
        servers = [stack.enter_context(served(tmp_path / name, **settings)) for name in "ab"]  # type: ignore[arg-type]
        deck.worker("w0")
        await deck.is_up("w0")
        await deck.put(["w0"], table([server.socket for server in servers]))
        jobs = [await submit(session, SHORT) for _ in range(4)]
        for job in jobs:

            async def is_done(job: str = job) -> bool:
                status, seen = await show(session, job)
                assert status == 200, seen
                return bool(seen["status"] == "completed")

            await until(is_done)
        own = [{job["id"] for job in server.client.get("/v1/jobs").json()["data"]} for server in servers]
        assert own[0] and own[1] and own[0] | own[1] == set(jobs)
        texts = {(await show(session, job))[1]["response"]["body"]["choices"][0]["text"] for job in jobs}
        assert len(texts) == 1

        long = await submit(session, LONG)
        async with session.delete(f"/v1/jobs/{long}") as answer:
            assert (answer.status, (await answer.json())["status"]) == (200, "cancelled")
        assert (await show(session, "job-0123456789abcdef"))[0] == 404
        # Nobody in particular asks here, and would be shown what everybody sent.
        assert (await session.get("/v1/jobs")).status == 403

        async def only_jobs_that_were_sent_count() -> bool:
            return await deck.total(["w0"], "requests") == len([*jobs, long])

        await until(only_jobs_that_were_sent_count)

        servers[1].process.kill()
        await asyncio.to_thread(servers[1].process.wait)
        kept, lost = sorted(own[0])[0], sorted(own[1])[0]
        assert (await show(session, kept))[0] == 200
        status, said = await show(session, lost)
        assert (status, said["error"]["code"]) == (503, "replica_unreachable")

        await deck.put(["w0"], table([servers[0].socket], 2, access=SAFETY))
        async with session.post("/v1/jobs", json={"endpoint": "/v1/completions", "body": SHORT}) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (400, "jobs_unchecked")
