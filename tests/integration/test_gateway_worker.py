"""Real gateway workers on one shared socket, before real backends, all of them processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import time
from pathlib import Path

import aiohttp
import pytest
from gateway_deck import Deck, Load, Sample, ask, read_until_cut, until
from multidict import CIMultiDict

from engine.gateway.client import fetch_listen_fd
from engine.gateway.ids import decode_request_id
from state.words import Conflict, Unreachable, UsageError


async def test_weights_switch_under_load_without_an_error_and_every_request_is_counted_once(deck: Deck) -> None:
    for name in ("s1", "s2", "c1"):
        deck.backend(name)
    workers = ["w0", "w1"]
    for name in workers:
        deck.worker(name)
    await deck.backends_up("s1", "s2", "c1")
    await deck.is_up(*workers)
    await deck.put(workers, deck.table(1, 0))
    load = Load(deck.url)
    await load.reaches(200)
    assert {s[1] for s in load.samples} <= {"s1", "s2"}
    for revision, weight in ((2, 50), (3, 10), (4, 100), (5, 0)):
        await deck.put(workers, deck.table(revision, weight))
        acked = len(load.samples)
        await load.reaches(acked + 300)
    samples = await load.stop()

    assert [s for s in samples if s[0] != 200] == []
    by_revision: dict[str, list[Sample]] = {}
    for sample in samples:
        by_revision.setdefault(sample[2]["X-Airboss-Revision"], []).append(sample)
    assert {s[1] for s in by_revision["4"]} == {"c1"}
    assert {s[1] for s in by_revision["5"]} == {"s1", "s2"}
    share = sum(s[1] == "c1" for s in by_revision["2"]) / len(by_revision["2"])
    assert abs(share - 0.5) < 5 * (0.25 / len(by_revision["2"])) ** 0.5

    async def all_counted() -> bool:
        return await deck.total(workers, "requests") == len(samples)

    await until(all_counted, 5)
    for number, of_revision in by_revision.items():
        for release in ("chat-1", "chat-2"):
            answered = sum(s[2]["X-Airboss-Release"] == release for s in of_revision)
            where = {"table_revision": int(number), "release_id": release}
            assert await deck.total(workers, "requests", **where) == answered, where


async def test_a_killed_replica_costs_no_request_and_gets_none_after_a_second(deck: Deck) -> None:
    backends = {name: deck.backend(name) for name in ("s1", "s2", "c1")}
    workers = ["w0", "w1"]
    for name in workers:
        deck.worker(name)
    await deck.backends_up("s1", "s2", "c1")
    await deck.is_up(*workers)
    await deck.put(workers, deck.table(1, 30))
    load = Load(deck.url, clients=16, sleep_ms=20)
    await load.reaches(100)
    for victim in ("s2", "c1"):
        killed_at = time.time()
        os.kill(backends[victim].pid, signal.SIGKILL)
        await asyncio.sleep(1.0)
        for name in workers:
            async with deck.admin(name) as admin:
                (state,) = [r for r in await admin.health() if r["spawn_id"] == victim]
            assert not state["healthy"]
            assert state["since"] - killed_at < 1.0
    tried = await deck.failed_attempts(workers)
    after = len(load.samples)
    await load.reaches(after + 50)
    samples = await load.stop()
    assert [s for s in samples if s[0] != 200] == []
    assert {s[1] for s in samples[after + 16 :]} == {"s1"}

    async def all_counted() -> bool:
        return await deck.total(workers, "requests") == len(samples)

    await until(all_counted, 5)
    assert await deck.total(workers, "errors") == 0
    assert await deck.failed_attempts(workers) == tried > 0


async def test_killed_workers_come_back_with_the_kept_table_while_connections_queue(deck: Deck) -> None:
    deck.backend("s1")
    workers = {name: deck.worker(name) for name in ("w0", "w1")}
    await deck.backends_up("s1")
    await deck.is_up("w0", "w1")
    await deck.put(["w0", "w1"], deck.table(7, None, stable=("s1",)))
    for process in workers.values():
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    async with aiohttp.ClientSession() as session:
        asked = [asyncio.create_task(ask(session, deck.url)) for _ in range(20)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in asked)
        for name in ("w2", "w3"):
            deck.worker(name)
        samples = await asyncio.gather(*asked)
    assert [s[0] for s in samples] == [200] * 20
    assert {s[2]["X-Airboss-Revision"] for s in samples} == {"7"}
    await deck.is_up("w2", "w3")
    async with deck.admin("w3") as admin:
        kept = await admin.table()
    assert kept is not None
    assert kept.revision == 7


async def test_drain_finishes_what_is_in_flight_writes_the_last_snapshot_and_leaves_the_port_open(deck: Deck) -> None:
    deck.backend("s1")
    leaving, staying = deck.worker("w0"), deck.worker("w1")
    await deck.backends_up("s1")
    await deck.is_up("w0", "w1")
    await deck.put(["w0", "w1"], deck.table(1, None, stable=("s1",)))
    staying.send_signal(signal.SIGSTOP)  # so that every client's connection is the leaving worker's
    load = Load(deck.url, clients=8, sleep_ms=50)
    await load.reaches(40)
    staying.send_signal(signal.SIGCONT)
    leaving.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(leaving.wait, 10) == 0
    at = len(load.samples)
    await load.reaches(at + 40)
    samples = await load.stop()
    assert [s for s in samples if s[0] != 200] == []
    assert json.loads((deck.run / "w0.exit.json").read_text())["code"] == 0
    written = [json.loads(line) for line in (deck.dir / "counts-w0.jsonl").read_text().splitlines()]
    counted: int = sum(row["requests"] for snapshot in written for row in snapshot["rows"])

    async def all_counted() -> bool:
        return counted + await deck.total(["w1"], "requests") == len(samples)

    await until(all_counted, 5)
    seqs = [snapshot["seq"] for snapshot in written]
    assert seqs == list(range(1, len(seqs) + 1))
    lines = [
        json.loads(line) for path in (deck.dir / "ledger").glob("w0-*.jsonl") for line in path.read_text().splitlines()
    ]
    assert len(lines) == counted
    assert {line["class"] for line in lines} == {"ok"}
    staying.terminate()
    assert await asyncio.to_thread(staying.wait, 10) == 0


async def test_streams_pass_unbuffered_and_a_broken_one_is_told_and_counted_bad(deck: Deck) -> None:
    backend = deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession() as session:
        body = {"model": "chat", "stream": 8, "every_ms": 60}
        arrivals = []
        async with session.post(f"{deck.url}/v1/completions", json=body) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            async for _ in answer.content.iter_any():
                arrivals.append(time.monotonic())
        assert len(arrivals) >= 8
        assert arrivals[-1] - arrivals[0] > 0.3

        async with session.post(f"{deck.url}/v1/completions", json={**body, "break_after": 3}) as answer:
            text = await read_until_cut(answer)
        assert b'"code": "stream_broken"' in text

        async with session.post(f"{deck.url}/v1/completions", json={**body, "every_ms": 5000}) as answer:
            await answer.content.readany()  # and leave
        async with session.post(f"{deck.url}/v1/completions", json={"model": "chat", "sleep_ms": 20}) as answer:
            assert answer.status == 200
        await deck.put(["w0"], deck.table(2, None, stable=("s1",), deadline_s=0.5))
        async with session.post(f"{deck.url}/v1/completions", json={**body, "stream": 50}) as answer:
            text = await read_until_cut(answer)
        assert b'"code": "deadline"' in text
    assert backend.poll() is None

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"ok": 2, "stream_broken": 1, "cancel": 1, "deadline": 1}

    await until(counted, 5)
    assert await deck.total(["w0"], "requests") == 4


async def test_a_client_that_leaves_cancels_the_work_upstream_and_does_not_count(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as session:
        with pytest.raises(TimeoutError):
            await session.post(f"{deck.url}/v1/completions", json={"model": "chat", "sleep_ms": 8000})

    async def cancelled() -> bool:
        return "cancelled" in deck.seen("s1") and await deck.classes(["w0"]) == {"cancel": 1}

    await until(cancelled, 5)
    assert await deck.total(["w0"], "requests") == 0


async def test_a_reader_that_is_slow_slows_the_replica_and_not_the_memory(deck: Deck) -> None:
    deck.backend("s1")
    worker = deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))

    def resident_kib() -> int:
        status = Path(f"/proc/{worker.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])

    async with aiohttp.ClientSession(read_bufsize=1024) as session:
        body = {"model": "chat", "stream": 3000, "every_ms": 0, "pad": 65536}
        async with session.post(f"{deck.url}/v1/completions", json=body) as answer:
            await answer.content.read(1)
            before = resident_kib()
            await asyncio.sleep(1.5)
            assert resident_kib() - before < 30_000  # of some 190 MB that the replica would send


async def test_deadline_shedding_and_bad_input_are_answered_clearly(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0", max_inflight=2, access={"requests": {"max_body_bytes": 10_000}})
    await deck.backends_up("s1")
    await deck.is_up("w0")
    async with aiohttp.ClientSession() as session:
        assert (await session.get(f"{deck.url}/healthz")).status == 503
        async with session.post(f"{deck.url}/v1/completions", json={"model": "chat"}) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        await deck.put(["w0"], deck.table(1, None, stable=("s1",), deadline_s=0.4))
        assert (await session.get(f"{deck.url}/healthz")).status == 200

        slow = [asyncio.create_task(ask(session, deck.url, sleep_ms=3000)) for _ in range(2)]
        await asyncio.sleep(0.1)
        status, _, headers = await ask(session, deck.url)
        assert status == 503
        assert headers["Retry-After"]
        assert headers["X-Airboss-Track"] == "stable"
        assert [s[0] for s in await asyncio.gather(*slow)] == [504, 504]

        async def refused(path: str, data: bytes, **headers: str) -> tuple[int, str]:
            async with session.post(deck.url + path, data=data, headers=headers) as answer:
                return answer.status, (await answer.json())["error"]["message"]

        status, message = await refused("/v1/completions", b'{"model":"nope"}')
        assert status == 404
        assert "chat" in message
        status, message = await refused("/staging/chat/v1/completions", b"{}")
        assert status == 404
        assert "production" in message
        assert (await refused("/v1/completions", b"not json"))[0] == 400
        assert (await refused("/v1/completions", b"[1]"))[0] == 400
        assert (await refused("/v1/completions", b'{"model":"chat","prompt":"' + b"x" * 20_000 + b'"}'))[0] == 413
        assert (await refused("/v1/%2e%2e/admin/handshake", b"{}"))[0] == 404
        assert (await refused("/admin/handshake", b"{}"))[0] == 404
        assert (await session.get(f"{deck.url}/v1/completions")).status == 405
        async with session.get(f"{deck.url}/v1/models") as answer:
            assert [m["id"] for m in (await answer.json())["data"]] == ["chat"]

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"deadline": 2, "shed": 1}

    await until(counted, 5)
    assert await deck.total(["w0"], "requests") == await deck.total(["w0"], "errors") == 3
    async with deck.admin("w0") as admin:
        page = await admin.metrics()
    series = 'airboss_requests_total{code="%s",env="production",release="chat-1",service="chat",track="stable"} %s'
    assert series % ("deadline", "2.0") in page
    assert series % ("quota", "0.0") in page
    assert 'airboss_rejected_total{reason="bad_json"} 2.0' in page


async def test_headers_are_cleaned_and_the_id_says_who_answered(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(9, None, stable=("s1",)))
    sent = {
        "Connection": "x-private",
        "X-Private": "1",
        "X-Airboss-Release": "forged",
        "X-Airboss-Deadline-Ms": "1",
        "X-Kept": "yes",
        "X-Request-Id": "me",
    }
    async with aiohttp.ClientSession() as session:
        url = f"{deck.url}/production/chat/v1/completions?beta=a%20b"
        async with session.post(url, json={"model": "chat"}, headers=sent) as answer:
            seen = await answer.json()
            got = answer.headers
        reached = CIMultiDict(seen["headers"])
        assert seen["path"] == "/v1/completions?beta=a%20b"
        assert "X-Private" not in reached
        assert "X-Airboss-Release" not in reached
        assert reached["X-Kept"] == "yes"
        assert "Keep-Alive" not in got
        assert reached["X-Request-Id"] == got["X-Request-Id"]
        assert 5000 < int(reached["X-Airboss-Deadline-Ms"]) <= 10_000
        decoded = decode_request_id(got["X-Request-Id"])
        assert (decoded.release_id, decoded.revision) == ("chat-1", 9)
        assert abs(decoded.at - time.time()) < 5
        word = {"request_id": got["X-Request-Id"], "value": "up"}
        async with session.post(f"{deck.url}/feedback", json=word) as answer:
            assert answer.status == 202
            assert (await answer.json())["release"] == "chat-1"
        async with session.post(f"{deck.url}/feedback", json={"request_id": "x", "value": "up"}) as answer:
            assert answer.status == 400


async def test_a_503_goes_to_a_sibling_but_never_to_another_track(deck: Deck) -> None:
    for name in ("s1", "s2", "c1"):
        deck.backend(name)
    deck.worker("w0")
    await deck.backends_up("s1", "s2", "c1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, 100))
    async with aiohttp.ClientSession() as session:
        status, by, headers = await ask(session, deck.url, status=503)
        assert (status, by, headers["X-Airboss-Track"]) == (503, "c1", "canary")
        status, by, headers = await ask(session, deck.url, status=500)
        assert (status, by) == (500, "c1")
        await deck.put(["w0"], deck.table(2, 0))
        status, by, headers = await ask(session, deck.url, status=503)
        assert status == 503
        assert headers["X-Airboss-Track"] == "stable"
    assert len(deck.seen("s1")) + len(deck.seen("s2")) == 2
    assert len(deck.seen("c1")) == 2


async def test_a_replica_that_is_not_ready_is_left_out_until_it_is(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession() as session:
        assert (await ask(session, deck.url))[0] == 200
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(deck.sock("s1"))) as direct:
            await direct.post("http://b/admin/ready/503")

            async def is_out() -> bool:
                return (await ask(session, deck.url))[0] == 503

            await until(is_out, 3)
            async with deck.admin("w0") as admin:
                assert "503" in (await admin.health())[0]["last_error"]
            await direct.post("http://b/admin/ready/200")

            async def is_back() -> bool:
                return (await ask(session, deck.url))[0] == 200

            await until(is_back, 3)


async def test_tables_only_move_forward_and_the_port_can_be_fetched_back(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    table = deck.table(5, None, stable=("s1",))
    async with deck.admin("w0") as admin:
        assert await admin.table() is None
        first = await admin.put_table(table)
        assert first["kept"]
        assert not first["unchanged"]
        assert (await admin.put_table({**table, "issued_at": 1.0}))["unchanged"]
        with pytest.raises(Conflict):
            await admin.put_table({**table, "revision": 4})
        with pytest.raises(Conflict):
            await admin.put_table({**table, "default_env": "staging"})
        bad = deck.table(6, None, stable=("s1",))
        bad["routes"][0]["backends"][0]["weight"] = 60
        with pytest.raises(UsageError, match="weights sum to 60"):
            await admin.put_table(bad)
        served = await admin.table()
        assert served is not None
        assert served.revision == 5
    assert json.loads((deck.dir / "table.json").read_text())["revision"] == 5
    fd = fetch_listen_fd(deck.sock("w0.fd"))
    with socket.socket(fileno=fd) as fetched:
        assert fetched.getsockname() == deck.listener.getsockname()
    with pytest.raises(Unreachable):
        fetch_listen_fd(deck.sock("nobody"))


async def test_a_probe_is_served_like_a_request_and_counted_as_none(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession() as session:
        url = f"{deck.url}/production/chat/v1/completions"
        for headers in ({"X-Airboss-Probe": "1"}, {}):
            async with session.post(url, json={"model": "chat"}, headers=headers) as answer:
                assert answer.status == 200

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"ok": 1}

    await until(counted, 5)
    async with deck.admin("w0") as admin:
        assert 'airboss_probes_total{code="ok"} 1.0' in await admin.metrics()


async def test_large_answers_pass_whole_and_a_body_that_waits_to_be_asked_for_is_asked_for(deck: Deck) -> None:
    deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession() as session:
        body = {"model": "chat", "prompt": "y" * 1_500_000, "echo": 3_000_000}
        async with session.post(f"{deck.url}/v1/completions", json=body, expect100=True) as answer:
            assert answer.status == 200
            assert len((await answer.json())["echo"]) == 3_000_000


async def test_a_hung_replica_is_left_out_until_it_answers_again_or_nobody_else_does(deck: Deck) -> None:
    hung, other = deck.backend("s1"), deck.backend("s2")
    deck.worker("w0")
    await deck.backends_up("s1", "s2")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None))
    async with deck.admin("w0") as admin, aiohttp.ClientSession() as session:

        async def healthy() -> set[str]:
            return {r["spawn_id"] for r in await admin.health() if r["healthy"]}

        async def is_out() -> bool:
            return await healthy() == {"s2"}

        async def is_back() -> bool:
            return await healthy() == {"s1", "s2"}

        async def none_is_left() -> bool:
            return not await healthy()

        await until(is_back, 10)
        hung.send_signal(signal.SIGSTOP)
        await until(is_out, 10)
        assert {(await ask(session, deck.url))[:2] for _ in range(6)} == {(200, "s2")}
        other.kill()
        await until(none_is_left, 10)
        late = asyncio.create_task(ask(session, deck.url))
        await asyncio.sleep(0.1)
        assert not late.done(), "shed, although its replica is only slow"
        hung.send_signal(signal.SIGCONT)
        assert (await late)[:2] == (200, "s1")


async def test_when_the_only_replica_dies_its_request_is_bad_and_the_next_ones_are_shed(deck: Deck) -> None:
    backend = deck.backend("s1")
    deck.worker("w0")
    await deck.backends_up("s1")
    await deck.is_up("w0")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))
    async with aiohttp.ClientSession() as session:
        asked = asyncio.create_task(ask(session, deck.url, sleep_ms=5000))

        async def arrived() -> bool:
            return len(deck.seen("s1")) == 1

        await until(arrived, 3)
        os.kill(backend.pid, signal.SIGKILL)
        assert (await asked)[0] == 502
        status, _, headers = await ask(session, deck.url)
        assert status == 503
        assert headers["Retry-After"]
        assert headers["X-Airboss-Track"] == "stable"

    async def counted() -> bool:
        return await deck.classes(["w0"]) == {"5xx": 1, "shed": 1}

    await until(counted, 5)
    assert await deck.total(["w0"], "errors") == 2
    ledger = deck.dir / "ledger" / "w0-1.jsonl"

    async def written() -> bool:  # in a thread of its own, behind the counts
        return ledger.exists() and ledger.read_text().count("\n") == 2

    await until(written, 5)
    assert [json.loads(line)["class"] for line in ledger.read_text().splitlines()] == ["5xx", "shed"]
