"""`airboss bench gateway`: one gateway worker on one core, beside what else one could put in front of a model server."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from functools import partial
from typing import Any

from engine.bench.gateway.field import Field, Gateway, free_port
from engine.bench.gateway.load import Order
from engine.bench.progress import say
from engine.bench.report import Report, Row, compared, interleaved, limited
from engine.gateway.client import GatewayAdmin
from state.words import Unreachable

FEATURES = "two tracks by weight, health, retries, deadline, ids, counts, ledger"
CONNECTIONS = 32
OPEN_RATE = 500.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seconds", type=float, help="Of each round's load (default 2, with --quick 1).")


def measure(options: argparse.Namespace) -> Report:
    """Every row."""
    rounds = options.rounds or (3 if options.quick else 5)
    seconds = options.seconds or (1.0 if options.quick else 2.0)
    with Field() as field:
        gateway = field.gateway()
        asyncio.run(_serve(gateway, gateway.table(1, 20)))
        bare = free_port()
        words = [sys.executable, "-P", "-m", "engine.bench.gateway.bare_proxy", str(bare), str(field.upstream_port)]
        field.start("bare-aiohttp", words, port=bare)
        rows = [
            *_throughput(field, {"ours": gateway.port, "bare aiohttp": bare}, rounds, seconds),
            *_latency(field, gateway.port, rounds, seconds),
        ]
        notes = ("all on one core: this machine has no second one",) if field.is_shared else ()
    return Report("gateway", tuple(rows), notes=notes)


async def _serve(gateway: Gateway, table: dict[str, Any]) -> None:
    """Put the table, and wait until its replicas are healthy."""
    end = time.monotonic() + 15
    async with GatewayAdmin(gateway.admin_socket) as admin:
        while time.monotonic() < end:
            with suppress(Unreachable):
                if not (await admin.handshake())["revision"]:
                    await admin.put_table(table)
                if all(replica["healthy"] for replica in await admin.health()):
                    return
            await asyncio.sleep(0.05)
    raise Unreachable("the bench's gateway worker did not come up within 15 s")


def _throughput(field: Field, ports: dict[str, int], rounds: int, seconds: float) -> list[Row]:
    say(f"{rounds} rounds of {seconds:g} s at {CONNECTIONS} connections: {', '.join(ports)}")

    def rate(port: int) -> float:
        found = field.load(Order("closed", port, seconds, CONNECTIONS))
        return float(found["rate"])

    rates = interleaved(rounds, {name: partial(rate, port) for name, port in ports.items()})
    note = f"c={CONNECTIONS}, on: {FEATURES}"
    return [
        compared("throughput", "req/s", rates["ours"], rates["bare aiohttp"], "bare aiohttp", at_least=0.8, note=note)
    ]


def _latency(field: Field, port: int, rounds: int, seconds: float) -> list[Row]:
    say(f"{rounds} rounds of {seconds:g} s at {OPEN_RATE:g} requests a second, arriving by themselves")

    def ask(port: int) -> dict[str, Any]:
        return field.load(Order("open", port, seconds, rate=OPEN_RATE))

    found = interleaved(rounds, {"ours": lambda: ask(port), "direct": lambda: ask(field.upstream_port)})
    rows = []
    for q, limit in ((50, 0.4), (99, 2.0)):
        pairs = zip(found["ours"], found["direct"], strict=True)
        added = [float(ours[f"p{q}_ms"]) - float(direct[f"p{q}_ms"]) for ours, direct in pairs]
        note = f"through the gateway less direct, open loop at {OPEN_RATE:g}/s"
        rows.append(limited(f"added latency p{q}", "ms", added, at_most=limit, note=note))
    return rows
