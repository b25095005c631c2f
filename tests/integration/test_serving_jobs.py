"""Asynchronous requests: taken, queued by class, answered, cancelled, kept over a kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_process import Served, served

pytestmark = pytest.mark.deep

SHORT = {"prompt": "abc", "max_tokens": 5, "seed": 3}
LONG = {"prompt": "abc", "max_tokens": 19_000, "ignore_eos": True}
"""An answer that takes as long as a test needs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    serving = {"max_batch": 1, "max_queue": 4, "max_jobs": 4, "max_job_results": 6, "kv_cache_mib": 64}
    with served(tmp_path_factory.mktemp("jobs"), context=20_000, layers=1, serving=serving) as started:
        yield started


@pytest.fixture(autouse=True)
def _an_empty_queue(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test left waiting is not the next one's."""
    yield
    if "server" in request.fixturenames:
        server: Served = request.getfixturevalue("server")
        for job in server.client.get("/v1/jobs").json()["data"]:
            server.client.delete(f"/v1/jobs/{job['id']}")
        until(lambda: server.client.get("/ready").json(), lambda seen: seen["in_flight"] == 0)


def until(look: Callable[[], Any], holds: Callable[[Any], bool], timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not holds(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


def submit(server: Served, body: dict[str, Any], tenant: str = "", **more: Any) -> dict[str, Any]:
    asked = {"endpoint": "/v1/completions", "body": body, **more}
    answer = server.client.post("/v1/jobs", json=asked, headers={"x-airboss-tenant": tenant} if tenant else {})
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def show(server: Served, job: dict[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = server.client.get(f"/v1/jobs/{job['id']}").json()
    return seen


def in_the_batch(server: Served, job: dict[str, Any]) -> None:
    """Wait until it is computed: a job "runs" as soon as it is in line, where a better class still passes it."""
    until(lambda: show(server, job), lambda seen: seen["status"] == "running")
    until(lambda: server.client.get("/ready").json(), lambda seen: seen["running"] == 1)


def ended(server: Served, job: dict[str, Any]) -> dict[str, Any]:
    return until(lambda: show(server, job), lambda seen: seen["status"] not in ("queued", "running"))


def test_a_job_gets_the_answer_that_its_endpoint_gives(server: Served) -> None:
    job = submit(server, SHORT)
    assert (job["object"], job["class"], job["status"]) == ("job", "batch", "queued")
    done = ended(server, job)
    direct = server.client.post("/v1/completions", json=SHORT).json()
    assert done["status"] == "completed" and done["response"]["status_code"] == 200
    assert done["response"]["body"]["choices"] == direct["choices"]
    assert done["expires_at"] > done["finished_at"] >= done["started_at"] >= done["created_at"]
    assert job["id"] in [one["id"] for one in server.client.get("/v1/jobs").json()["data"]]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"endpoint": "/v1/embeddings", "body": SHORT}, "endpoint"),
        ({"endpoint": "/generate", "body": {"prompt": 3}}, "prompt"),
        ({"endpoint": "/v1/completions", "body": {**SHORT, "stream": True}}, "body.stream"),
        ({"endpoint": "/v1/completions", "body": SHORT, "class": "urgent"}, "class"),
        ({"endpoint": "/v1/completions", "body": SHORT, "webhook": "http://a"}, "webhook"),
        ({"body": SHORT}, "endpoint"),
    ],
)
def test_a_job_that_cannot_be_meant_is_refused_when_it_is_sent(server: Served, asked: Any, param: str) -> None:
    refused = server.client.post("/v1/jobs", json=asked)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)


def test_cancelled_jobs_free_their_place_and_classes_go_in_order(server: Served) -> None:
    running = submit(server, LONG, **{"class": "background"})
    in_the_batch(server, running)
    last = submit(server, SHORT, **{"class": "background"})
    first = submit(server, SHORT, **{"class": "interactive"})
    dropped = submit(server, LONG)
    full = server.client.post("/v1/jobs", json={"endpoint": "/v1/completions", "body": SHORT})
    assert full.status_code == 503, [show(server, job) for job in (running, last, first, dropped)]
    assert full.json()["error"]["code"] == "too_many_jobs"
    assert server.client.delete(f"/v1/jobs/{dropped['id']}").json()["status"] == "cancelled"
    assert server.client.delete(f"/v1/jobs/{running['id']}").json()["status"] == "cancelled"
    assert ended(server, first)["finished_at"] <= ended(server, last)["finished_at"]
    until(lambda: server.client.get("/ready").json(), lambda seen: seen["running"] == 0)
    assert server.metric('vllm:request_success_total{engine="0",finished_reason="abort"') >= 1


def test_a_class_fills_its_share_of_the_queue_and_no_more(server: Served) -> None:
    holding = submit(server, LONG, **{"class": "interactive"})
    in_the_batch(server, holding)
    waiting = [submit(server, SHORT, **{"class": "background"}) for _ in range(2)]
    until(lambda: server.client.get("/ready").json(), lambda seen: seen["in_flight"] == 3)
    asked = {**SHORT, "max_tokens": 1}
    refused = server.client.post("/v1/completions", json=asked, headers={"x-airboss-class": "background"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
    assert "of class background" in refused.json()["error"]["message"]
    server.client.delete(f"/v1/jobs/{holding['id']}")
    assert [ended(server, job)["status"] for job in waiting] == ["completed", "completed"]
    assert server.client.post("/v1/completions", json=asked).status_code == 200


def test_a_tenants_jobs_are_its_own_and_old_results_make_room(server: Served) -> None:
    job = submit(server, SHORT, tenant="ann")
    assert ended(server, job)["status"] == "completed"
    assert server.client.get(f"/v1/jobs/{job['id']}", headers={"x-airboss-tenant": "bob"}).status_code == 404
    own = server.client.get("/v1/jobs", headers={"x-airboss-tenant": "ann"}).json()["data"]
    assert [one["id"] for one in own] == [job["id"]]
    for _ in range(6):
        ended(server, submit(server, SHORT))
    assert server.client.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert len(server.client.get("/v1/jobs").json()["data"]) <= 6


def test_jobs_survive_a_killed_server_where_there_is_a_directory(tmp_path: Path) -> None:
    serving = {"max_batch": 1, "kv_cache_mib": 64}
    place = {"serving": serving, "context": 4000, "layers": 1, "jobs_dir": str(tmp_path / "kept")}
    with served(tmp_path, **place) as first:
        done = ended(first, submit(first, SHORT))
        jobs = [
            submit(first, {**SHORT, "max_tokens": 800 if number == 0 else 4, "seed": number}) for number in range(3)
        ]
        until(lambda: show(first, jobs[0]), lambda seen: seen["status"] == "running")
        first.process.kill()
        first.process.wait()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    with served(tmp_path, **place) as second:
        other = tmp_path / "other"
        with served(other, is_awaited=False, jobs_dir=place["jobs_dir"]) as greedy:
            assert greedy.process.wait(30) == 1
            assert "another model server keeps its jobs" in greedy.log.read_text()
        assert show(second, done)["response"] == done["response"]
        again = [ended(second, job) for job in jobs]
    assert [job["status"] for job in again] == ["completed"] * 3
    assert [job["response"]["body"]["usage"]["completion_tokens"] for job in again] == [800, 4, 4]
