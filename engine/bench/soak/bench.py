"""`airboss bench soak`: a gateway and a model server under mixed load for as long as asked, and whether they leak.

Clients stream, ask whole answers, leave in the middle, send long prompts, bad requests and half ones. Every answer must
be the one its request deserves, memory must stay flat, and afterwards nothing may be held: no slot, no block of the
cache, no descriptor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from engine.bench.gateway.field import Field, Gateway
from engine.bench.progress import say
from engine.bench.report import Report, Row, limited
from engine.bench.serving.bundles import nano_release
from engine.bench.serving.sides import SERVICE, Server, Sides
from engine.bench.soak.mix import Mix
from engine.bench.soak.watch import Watch
from engine.gateway.client import GatewayAdmin
from state.words import Unreachable

CLIENTS = 8
CONTEXT = 1024
LONG_RUN_MIN = 10.0
"""From here on memory must be flat; a shorter run is still warming up and is only kept from running away."""
FLAT_PCT, WARMING_PCT = 3.0, 25.0
SETTLE_S = 15.0
_HELD = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


@dataclass(frozen=True, slots=True)
class _Watched:
    server: Watch
    gateway: Watch


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--minutes", type=float, help="How long (default 30, with --quick 0.3).")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="How many at once.")


def measure(options: argparse.Namespace) -> Report:
    """Run the load, then look at what is left."""
    minutes = options.minutes or (0.3 if options.quick else 30.0)
    with Sides(1, is_shared=True) as sides, Field() as field:
        bundle = nano_release(sides.root / "nano", layers=2, width=64, heads=2, context=CONTEXT) / "bundle"
        server = sides.own_server(bundle, {"max_batch": CLIENTS, "kv_cache_mib": 16})
        gateway = field.gateway()
        rows, notes = asyncio.run(_soak(server, gateway, minutes * 60, options.clients))
    return Report("soak", rows, notes=notes)


async def _soak(
    server: Server, gateway: Gateway, seconds: float, clients: int
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    await _put_table(gateway, server)
    mix = Mix(gateway.port, CONTEXT)
    say(f"warming up, then {seconds:g} s with {clients} clients")
    await mix.run(clients, min(10.0, seconds / 4))
    await _settled(server)
    every = max(0.2, min(5.0, seconds / 200))
    watched = _Watched(Watch(server.child.pid, every), Watch(gateway.child.pid, every))
    before = [watch.look().descriptors for watch in (watched.server, watched.gateway)]
    tasks = [asyncio.create_task(watch.run()) for watch in (watched.server, watched.gateway)]
    began = time.monotonic()
    try:
        await mix.run(clients, seconds)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    took = time.monotonic() - began
    held = await _settled(server)
    after = [watch.look().descriptors for watch in (watched.server, watched.gateway)]
    flat = FLAT_PCT if seconds >= LONG_RUN_MIN * 60 else WARMING_PCT
    rows = [limited("answers that should not have been", "count", [mix.tally.unexpected_count], at_most=0)]
    for name, watch, old, new in zip(
        ("model server", "gateway worker"), (watched.server, watched.gateway), before, after, strict=True
    ):
        last = watch.samples[-1].rss_bytes / 1e6
        note = f"{last:.0f} MB at the end, {watch.growth_mb_per_h():+.1f} MB an hour"
        rows.append(limited(f"{name}'s memory growth", "%", [watch.growth_pct()], at_most=flat, note=note))
        # Idle connections are kept for a while, as many as there were clients.
        note = f"{old} before the load, {new} after it"
        rows.append(limited(f"{name}'s descriptors kept", "count", [new - old], at_most=clients + 4, note=note))
    rows += [limited(f"{name.removeprefix('vllm:')} afterwards", "", [held[name]], at_most=0) for name in _HELD]
    done = ", ".join(f"{count} {kind}" for kind, count in sorted(mix.tally.done.items()))
    return tuple(rows), (f"{took:.0f} s, {clients} clients: {done}", *mix.tally.unexpected)


async def _settled(server: Server) -> dict[str, float]:
    """What the model server still holds once nobody asks: waits up to 15 s for it to become nothing."""
    end = time.monotonic() + SETTLE_S
    async with httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(uds=server.uds), base_url=server.url, timeout=10
    ) as client:
        while True:
            text = (await client.get("/metrics")).text
            held = {
                sample.name: sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if sample.name in _HELD
            }
            if not any(held.values()) or time.monotonic() > end:
                return held
            await asyncio.sleep(0.1)


async def _put_table(gateway: Gateway, server: Server) -> None:
    """Route everything to the one replica, and wait until the gateway finds it healthy."""
    backend = {"track": "stable", "release_id": "soak-1", "weight": 100, "replicas": [["m", f"unix:{server.uds}"]]}
    route = {"service": SERVICE, "env": "dev", "target": "local", "rollout_id": "", "slow_ms": 1000.0}
    table = {
        "revision": 1,
        "issued_at": 0.0,
        "default_env": "dev",
        "routes": [{**route, "deadline_s": 60.0, "backends": [backend]}],
    }
    end = time.monotonic() + SETTLE_S
    async with GatewayAdmin(gateway.admin_socket) as admin:
        while time.monotonic() < end:
            with contextlib.suppress(Unreachable):
                if not (await admin.handshake())["revision"]:
                    await admin.put_table(table)
                if any(replica["healthy"] for replica in await admin.health()):
                    return
            await asyncio.sleep(0.05)
    raise Unreachable(f"the soak's gateway did not find its replica healthy within {SETTLE_S:g} s")
