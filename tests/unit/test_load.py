"""The load generator against a real aiohttp server on a real socket."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from engine.load import LoadGenerator, LoadPlan, Outcome
from state.words import UsageError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def gateway(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def plan_for(url: str, **changes: object) -> LoadPlan:
    base = LoadPlan(url=url, service="chat", prompts=("a", "b"), rps=400, requests=40, seed=7, timeout_s=5)
    return replace(base, **changes)  # type: ignore[arg-type]


def headers(track: str, release: str) -> dict[str, str]:
    return {"x-airboss-track": track, "x-airboss-release": release}


async def test_every_request_is_counted_under_the_track_and_release_that_answered_it() -> None:
    seen: list[dict[str, object]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append({**await request.json(), "env": request.headers.get("x-airboss-env")})
        if len(seen) % 4 == 0:
            return web.json_response({"error": "broken"}, status=500, headers=headers("canary", "charlm-2"))
        return web.json_response({}, headers=headers("stable", "charlm-1"))

    async with gateway(answer) as url:
        report = await LoadGenerator(plan_for(url, env="production", max_tokens=3)).run()

    assert (report.sent, report.answered, report.failed, report.in_flight) == (40, 30, 10, 0)
    assert report.by_track == {"canary": Outcome(0, 10), "stable": Outcome(30, 0)}
    assert report.by_release == {"charlm-1": Outcome(30, 0), "charlm-2": Outcome(0, 10)}
    assert report.by_status == {"200": 30, "500": 10}
    assert len(report.errors) == 1 and "500" in report.errors[0] and "broken" in report.errors[0]
    assert seen[0]["model"] == "chat" and seen[0]["max_tokens"] == 3 and seen[0]["env"] == "production"
    assert {str(body["prompt"]) for body in seen} == {"a", "b"}
    assert json.loads(json.dumps(report.to_json()))["by_track"]["canary"] == {"answered": 0, "failed": 10}


async def test_the_same_seed_chooses_the_same_prompts() -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((await request.json())["prompt"])
        return web.json_response({})

    prompts = tuple(f"prompt {n}" for n in range(1000))
    async with gateway(answer) as url:
        for seed in (7, 7, 8):
            await LoadGenerator(plan_for(url, prompts=prompts, requests=12, seed=seed)).run()
    # Requests may overtake one another on the wire.
    first, second, other = sorted(seen[:12]), sorted(seen[12:24]), sorted(seen[24:])
    assert first == second != other


async def test_a_refused_connection_is_a_failure_of_no_known_track() -> None:
    async with gateway(_ok) as url:
        pass
    report = await LoadGenerator(plan_for(url, requests=5)).run()
    assert (report.sent, report.failed) == (5, 5)
    assert report.by_track == {"unknown": Outcome(0, 5)}
    assert report.by_status == {"connection": 5}
    assert report.p50_ms is None


async def test_a_connection_reset_before_the_answer_is_a_failure_and_is_not_sent_again() -> None:
    arrived = 0

    async def reset(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with gateway(reset) as url:
        report = await LoadGenerator(plan_for(url, requests=5)).run()
    assert (report.sent, report.failed, arrived) == (5, 5, 5)
    assert report.by_track == {"unknown": Outcome(0, 5)}


async def test_an_answer_that_breaks_off_is_a_failure_of_its_track() -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={**headers("canary", "charlm-2"), "content-length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with gateway(half) as url:
        report = await LoadGenerator(plan_for(url, requests=3)).run()
    assert report.by_track == {"canary": Outcome(0, 3)}


async def test_a_request_without_an_answer_times_out() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with gateway(hang) as url:
        report = await LoadGenerator(plan_for(url, requests=3, timeout_s=0.2)).run()
    assert report.by_status == {"timeout": 3}
    assert report.by_track == {"unknown": Outcome(0, 3)}


async def test_arrivals_do_not_wait_for_answers_and_what_finds_no_slot_is_reported_as_skipped() -> None:
    open_now = most = 0

    async def slow(request: web.Request) -> web.Response:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.3)
        open_now -= 1
        return web.json_response({}, headers=headers("stable", "charlm-1"))

    async with gateway(slow) as url:
        report = await LoadGenerator(plan_for(url, requests=40, concurrency=8)).run()
    assert report.sent + report.skipped == 40
    assert most == 8 and report.skipped > 0
    assert report.answered == report.sent
    assert report.p50_ms is not None and report.p50_ms >= 290


async def test_the_rate_is_the_one_asked_for_and_the_time_bound_ends_the_load() -> None:
    async with gateway(_ok) as url:
        report = await LoadGenerator(plan_for(url, rps=200, requests=None, duration_s=1.0)).run()
    # Poisson with mean 200: five standard deviations either way.
    assert 130 < report.sent < 270
    assert 1.0 <= report.elapsed_s < 3.0


async def test_a_stopped_load_finishes_what_is_in_flight_and_sends_no_more() -> None:
    release = asyncio.Event()

    async def hold(request: web.Request) -> web.Response:
        await release.wait()
        return web.json_response({}, headers=headers("stable", "charlm-1"))

    async with gateway(hold) as url:
        generator = LoadGenerator(plan_for(url, requests=None, duration_s=60, rps=50))
        running = asyncio.create_task(generator.run())
        deadline = time.monotonic() + 5
        while generator.snapshot().in_flight < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        generator.stop()
        sent = generator.snapshot().sent
        release.set()
        report = await asyncio.wait_for(running, 5)
    assert report.sent == sent == report.answered >= 3
    assert report.elapsed_s < 30


async def test_a_cancelled_load_leaves_no_task_behind() -> None:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with gateway(hang) as url:
        generator = LoadGenerator(plan_for(url, requests=None, duration_s=60))
        running = asyncio.create_task(generator.run())
        deadline = time.monotonic() + 5
        while generator.snapshot().sent < 3 and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        left = [task for task in asyncio.all_tasks() if "_send" in repr(task.get_coro())]
    assert not left


async def test_a_redirect_to_another_host_is_not_followed() -> None:
    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": "http://192.0.2.1/v1/completions"})

    async with gateway(redirect) as url:
        report = await LoadGenerator(plan_for(url, requests=2)).run()
    assert report.by_status == {"307": 2} and report.failed == 2


@pytest.mark.parametrize("url", ["http://192.0.2.1:80", "http://example.com", "http://127.0.0.1.example.com"])
def test_an_address_that_is_not_this_host_is_refused_unless_allowed(url: str) -> None:
    with pytest.raises(UsageError, match="not this host"):
        LoadGenerator(plan_for(url))
    LoadGenerator(plan_for(url, allow_remote=True))


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080", "http://127.9.9.9"]
)
def test_loopback_addresses_are_accepted(url: str) -> None:
    LoadGenerator(plan_for(url))


@pytest.mark.parametrize(
    "changes",
    [
        {"prompts": ()},
        {"requests": None},
        {"rps": 0.0},
        {"rps": float("nan")},
        {"concurrency": 0},
        {"url": "127.0.0.1:8080"},
        {"url": "ftp://127.0.0.1"},
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        LoadGenerator(replace(plan_for("http://127.0.0.1:1"), **changes))  # type: ignore[arg-type]


async def _ok(request: web.Request) -> web.Response:
    return web.json_response({}, headers=headers("stable", "charlm-1"))
