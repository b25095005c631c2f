"""The gateway's benchmark measures what it says it does: its programs, against one another, in moments."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from engine.bench.gateway import peers, switching
from engine.bench.gateway.bench import serve
from engine.bench.gateway.field import Field, Gateway
from engine.bench.gateway.load import Order


@pytest.fixture(scope="module")
def field() -> Iterator[Field]:
    with Field() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(field: Field) -> Gateway:
    made = field.gateway()
    asyncio.run(serve(made, 1))
    return made


def test_a_closed_load_counts_every_answer_and_who_gave_it(field: Field, gateway: Gateway) -> None:
    found = field.load(Order("closed", gateway.port, 30.0, 4, total=200))
    assert found["failed"] == 0 and found["answered"] >= 200
    assert sum(found["releases"].values()) == found["answered"]
    assert set(found["releases"]) == {"bench-stable", "bench-canary"}


def test_an_open_load_sends_what_it_was_told_to_whatever_the_answers_do(field: Field, gateway: Gateway) -> None:
    found = field.load(Order("open", gateway.port, 0.5, rate=200.0))
    assert (found["answered"], found["failed"]) == (100, 0)
    assert found["p50_ms"] <= found["p99_ms"]


def test_events_are_timed_from_their_leaving(field: Field, gateway: Gateway) -> None:
    found = field.load(Order("events", gateway.port, 0.5, 10, rate=10.0))
    assert (found["answered"], found["failed"], found["timed"]) == (10, 0, 50)
    assert found["p99_ms"] > 0


def test_the_bare_proxy_passes_answers_and_streams(field: Field) -> None:
    bare = peers.bare_aiohttp(field, field.upstream_port)
    assert field.load(Order("closed", bare.port, 30.0, 2, total=20))["failed"] == 0
    assert field.load(Order("events", bare.port, 0.3, 2, rate=10.0))["timed"] == 6


def test_what_fails_is_counted_as_failed(field: Field, gateway: Gateway) -> None:
    found = field.load(Order("closed", gateway.port, 30.0, 2, total=10, path="/nowhere"))
    assert found["answered"] == 0 and found["failed"] >= 10 and "status 404" in found["errors"]


def test_a_table_counts_from_the_first_answer_under_it(gateway: Gateway) -> None:
    assert len(asyncio.run(switching.applied_ms(gateway, 3, 10))) == 3


def test_a_peer_that_is_not_installed_says_what_to_install(field: Field, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "apt-get install nginx" in peers.nginx(field, 1).absent
    assert "apt-get install haproxy" in peers.haproxy(field, 1).absent
    assert "pip install 'litellm[proxy]'" in peers.litellm(field, 1, "/nowhere/bin/python").absent
