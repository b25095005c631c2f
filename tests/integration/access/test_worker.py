"""A real worker process, on its own event loop: everything at once, and a disk that takes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

from adapters.local.probing import Visitor, probe_certificate, probe_key
from engine.load import LoadGenerator, LoadPlan
from engine.observe.prober import Prober, ProbeTarget
from state.key_file import add_key, make_key
from state.pinned import pinned_context


async def gateway(deck: Any, access: dict[str, Any]) -> None:
    """One worker before one replica, serving chat in production."""
    deck.dir.mkdir(exist_ok=True)
    deck.backend("s1")
    deck.worker("w0", access={"root": str(deck.root), **access})
    await deck.is_up("w0")
    await deck.backends_up("s1")
    await deck.put(["w0"], deck.table(1, None, stable=("s1",)))


async def metric(deck: Any, name: str) -> float:
    """The sum of a metric of the worker over its labels."""
    async with deck.admin("w0") as admin:
        lines = (await admin.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith((name + "{", name + " ")))


async def test_keys_limits_and_tls_hold_in_a_worker_and_the_prober_comes_in_uncounted(deck: Any, issue: Any) -> None:
    issue(deck.root)
    issue(deck.root, "the clients' CA", "ca-")
    deck.dir.mkdir()
    made = make_key("ci", tenant="acme", requests_per_minute=2)
    add_key(deck.root / "airboss-keys.toml", made.key)
    visitor = Visitor(probe_key(deck.dir), deck.root / "cert.pem", probe_certificate(deck.dir))
    tls = {"tls_cert": "cert.pem", "tls_key": "key.pem", "tls_client_ca": "ca-cert.pem"}
    await gateway(deck, {"auth": {"mode": "keys"}, **tls})
    url = f"https://127.0.0.1:{deck.port}"

    context = pinned_context(deck.root / "cert.pem")
    context.load_cert_chain(deck.root / "ca-cert.pem", deck.root / "ca-key.pem")
    headers = {"Authorization": f"Bearer {made.secret}"}
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(url, connector=connector, headers=headers) as session:
        body = {"model": "chat", "prompt": "x"}
        statuses = []
        for _ in range(3):
            async with session.post("/v1/completions", json=body) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 429]

    prober = Prober(None, lambda: url, None, visitor=lambda: visitor)
    target = ProbeTarget("chat", "production", 1.0, 10.0)
    results = await asyncio.gather(*(prober.probe(url, target) for _ in range(3)))
    # The backend of these tests answers without choices; that it answered at all means the prober was let in.
    assert {result.error for result in results} == {"it answered 200 without a completion"}
    refused = Prober(None, lambda: url, None, visitor=lambda: Visitor("", visitor.server, visitor.client))
    assert (await refused.probe(url, target)).error == "it answered 401"
    await prober.close()
    await refused.close()
    assert await metric(deck, "airboss_requests_total") == 2


async def test_the_load_generator_comes_in_where_certificates_and_keys_are_asked_for(deck: Any, issue: Any) -> None:
    issue(deck.root)
    issue(deck.root, "the clients' CA", "ca-")
    deck.dir.mkdir()
    made = make_key("load")
    add_key(deck.root / "airboss-keys.toml", made.key)
    shown = probe_certificate(deck.dir)
    await gateway(deck, {"auth": {"mode": "keys"}, "tls_cert": "cert.pem", "tls_key": "key.pem",
                         "tls_client_ca": "ca-cert.pem"})  # fmt: skip
    plan = LoadPlan(url=f"https://127.0.0.1:{deck.port}", service="chat", prompts=("x",), rps=200.0, requests=5,
                    api_key=made.secret, trust=deck.root / "cert.pem", show=shown)  # fmt: skip
    report = await LoadGenerator(plan).run()
    assert (report.answered, report.failed) == (5, 0)
    assert made.secret not in repr(plan)


async def test_a_disk_that_takes_nothing_costs_lines_and_no_request(deck: Any) -> None:
    ledger = deck.dir / "ledger"
    ledger.mkdir(parents=True)
    for path in (ledger / "w0-1.jsonl", deck.dir / "counts-w0.jsonl", deck.root / "w0.log", deck.dir / "table.lock"):
        path.symlink_to("/dev/full")
    await gateway(deck, {})
    async with aiohttp.ClientSession(deck.url) as session:
        for number in range(30):
            async with session.post("/v1/completions", json={"model": "chat", "prompt": str(number)}) as answer:
                assert answer.status == 200

        async with asyncio.timeout(10):
            while (
                await metric(deck, "airboss_lines_dropped_total") < 30
            ):  # the ledger's lines go to the disk once a second
                await asyncio.sleep(0.05)
        async with session.post("/v1/completions", json={"model": "chat", "prompt": "still"}) as answer:
            assert answer.status == 200
    assert await metric(deck, "airboss_requests_total") == 31, "what is counted in memory is counted"
