"""`airboss bench gateway`: one gateway worker on one core, beside what else one could put in front of a model server."""

from __future__ import annotations

import argparse
import asyncio
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from engine.bench.gateway import peers, switching, wrk
from engine.bench.gateway.field import Field, Gateway
from engine.bench.gateway.load import Order
from engine.bench.progress import say
from engine.bench.report import Report, Row, busy_notes, compared, interleaved, limited, not_measured
from engine.gateway.client import GatewayAdmin
from state.key_file import add_key, make_key
from state.words import Unreachable

FEATURES = "two tracks by weight, health, breakers, retries and their budget, deadline, classes, ids, counts, ledger"
GUARDED = f"{FEATURES}, API keys, a rate limit per key"
CONNECTIONS = 32
OPEN_RATE = 500.0
STREAMS, EVENTS_PER_S = 200, 10.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seconds", type=float, help="Of each round's load (default 2, with --quick 1).")
    parser.add_argument("--litellm-python", metavar="PATH", help="The python of an environment with litellm[proxy].")


def measure(options: argparse.Namespace) -> Report:
    """Every row."""
    rounds = options.rounds or (2 if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else 2.0)
    notes = _notes()
    with Field() as field:
        plain = peers.plain_upstream(field)
        ours, guarded, headers = _ours(field, plain)
        bare = peers.bare_aiohttp(field, plain)
        others = [peers.nginx(field, plain), peers.haproxy(field, plain)]
        others.append(peers.litellm(field, plain, options.litellm_python))
        mine = {"ours": peers.Peer("ours", ours.port), "guarded": peers.Peer("guarded", guarded.port, headers=headers)}
        rows = _throughput(field, mine, [bare, *others], rounds, seconds)
        rows += _latency(field, ours.port, bare.port, plain, rounds, seconds)
        ours.upstream_port = field.upstream_port
        asyncio.run(serve(ours, 2))
        rows += _streams(field, ours.port, rounds, options.quick)
        rows += switching.rows(field, ours, options.quick)
        if field.is_shared:
            notes.append("all on one core: this machine has no second one")
    return Report("gateway", tuple(rows), notes=tuple(notes))


def _notes() -> list[str]:
    tool = "wrk" if wrk.is_here() else "the bench's own load generator (apt-get install wrk for a leaner one)"
    return [f"proxies on one core, load and upstream on another; throughput measured with {tool}", *busy_notes()]


def _ours(field: Field, upstream: int) -> tuple[Gateway, Gateway, dict[str, str]]:
    """A worker as it comes, one that asks for a key and limits its rate, and the headers for that one."""
    made = make_key("bench")
    keys = field.root / "keys.toml"
    add_key(Path(keys), made.key)
    access = {
        "auth": {"mode": "keys", "keys_file": str(keys)},
        "rate": {"key": {"requests_per_minute": 100_000_000, "tokens_per_minute": 100_000_000_000}},
    }
    found = [field.gateway("ours"), field.gateway("guarded", access=access)]
    for gateway in found:
        gateway.upstream_port = upstream
        asyncio.run(serve(gateway, 1))
    return found[0], found[1], {"Authorization": f"Bearer {made.secret}"}


async def serve(gateway: Gateway, revision: int) -> None:
    """Put a table, and wait until its replicas are healthy."""
    end = time.monotonic() + 15
    async with GatewayAdmin(gateway.admin_socket) as admin:
        while time.monotonic() < end:
            with suppress(Unreachable):
                if (await admin.handshake())["revision"] < revision:
                    await admin.put_table(gateway.table(revision, 20))
                if all(replica["healthy"] for replica in await admin.health()):
                    return
            await asyncio.sleep(0.05)
    raise Unreachable("the bench's gateway worker did not come up within 15 s")


def _throughput(
    field: Field, mine: dict[str, peers.Peer], others: list[peers.Peer], rounds: int, seconds: float
) -> list[Row]:
    here = {**mine, **{peer.name: peer for peer in others if peer.port}}
    say(f"throughput: {rounds} rounds of {seconds:g} s at {CONNECTIONS} connections: {', '.join(here)}")

    def order(peer: peers.Peer, seconds: float, total: int = 0) -> Order:
        path = "/v1/chat/completions" if peer.is_chat else "/v1/completions"
        return Order("closed", peer.port, seconds, CONNECTIONS, 0.0, total, path, dict(peer.headers), peer.is_chat)

    def rate(peer: peers.Peer) -> float:
        if peer.is_chat:  # LiteLLM: seconds an answer at this load, which wrk would count as timeouts
            return float(field.load(order(peer, max(seconds, 5.0)))["rate"])
        return wrk.rate(field, order(peer, seconds))

    for peer in here.values():
        field.load(order(peer, 60.0, total=CONNECTIONS))  # what is done once, and late, is not what is measured
    rates = interleaved(rounds, {name: partial(rate, peer) for name, peer in here.items()})
    bare = "bare aiohttp"
    rows = [
        compared("throughput", "req/s", rates["ours"], rates[bare], bare, at_least=0.8, note=f"on: {FEATURES}"),
        compared(
            "with keys and limits", "req/s", rates["guarded"], rates[bare], bare, at_least=0.8, note=f"on: {GUARDED}"
        ),
    ]
    for peer in others[1:]:
        floor = 5.0 if peer.name == "LiteLLM" else None
        if peer.port:
            rows.append(compared("throughput", "req/s", rates["ours"], rates[peer.name], peer.name, at_least=floor))
        else:
            rows.append(not_measured("throughput", "req/s", peer.name, peer.absent, "ratio >= 5" if floor else ""))
    return rows


def _latency(field: Field, ours: int, bare: int, direct: int, rounds: int, seconds: float) -> list[Row]:
    say(f"latency: {rounds} rounds of {seconds:g} s at {OPEN_RATE:g} requests a second, arriving by themselves")

    def ask(port: int) -> dict[str, Any]:
        return field.load(Order("open", port, seconds, rate=OPEN_RATE))

    ports = {"ours": ours, "bare": bare, "direct": direct}
    found = interleaved(rounds, {name: partial(ask, port) for name, port in ports.items()})

    def added(name: str, q: int) -> list[float]:
        pairs = zip(found[name], found["direct"], strict=True)
        return [float(through[f"p{q}_ms"]) - float(alone[f"p{q}_ms"]) for through, alone in pairs]

    rows = []
    for q, limit in ((50, 0.4), (99, 2.0)):
        note = f"over asking the upstream directly, open loop at {OPEN_RATE:g}/s"
        row = limited(f"added latency p{q}", "ms", added("ours", q), at_most=limit, note=note)
        rows.append(_beside(row, added("bare", q), "bare aiohttp"))
    return rows


def _streams(field: Field, ours: int, rounds: int, is_quick: bool) -> list[Row]:
    rounds, seconds = min(rounds, 2 if is_quick else 3), 3.0 if is_quick else 6.0
    say(f"streams: {rounds} rounds of {seconds:g} s, {STREAMS} streams of {EVENTS_PER_S:g} events a second")

    def stream(port: int) -> dict[str, Any]:
        return field.load(Order("events", port, seconds, STREAMS, EVENTS_PER_S))

    found = interleaved(rounds, {"ours": partial(stream, ours), "direct": partial(stream, field.upstream_port)})
    failed = sum(one["failed"] for one in found["ours"])
    errors = ", ".join({error for one in found["ours"] for error in one["errors"]})
    why = f" ({errors})" if errors else ""
    note = f"from leaving the upstream to the client; {failed} of {rounds * STREAMS} streams failed{why}"
    row = limited(
        f"{STREAMS} streams, event p99", "ms", [float(o["p99_ms"]) for o in found["ours"]], at_most=15.0, note=note
    )
    return [_beside(row, [float(o["p99_ms"]) for o in found["direct"]], "direct")]


def _beside(row: Row, other: list[float], name: str) -> Row:
    """The row with another's number beside it, for the eye: the target is on ours alone."""
    shown = limited(row.name, row.unit, other).ours
    return Row(row.name, row.unit, row.ours, shown, name, None, row.target, row.met, row.note)
