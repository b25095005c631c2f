"""The rows about switching: how soon a table counts, what a thousand switches cost users, how true the split is."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from engine.bench.gateway.field import Field, Gateway
from engine.bench.gateway.load import Order
from engine.bench.progress import say
from engine.bench.report import Row, limited
from engine.gateway.client import GatewayAdmin

CONNECTIONS = 16


async def applied_ms(gateway: Gateway, changes: int, revision: int) -> list[float]:
    """Milliseconds from the call that puts a table to the first answer under it, for so many tables."""
    request = Order("closed", gateway.port).request()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    took = []

    async def ask() -> int:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        fields = head.lower()
        await reader.readexactly(int(fields.split(b"content-length:")[1].split(b"\r\n")[0]))
        return int(fields.split(b"x-airboss-revision:")[1].split(b"\r\n")[0])

    async def put(number: int) -> None:
        async with GatewayAdmin(gateway.admin_socket) as admin:  # as the engine does it: a connection each
            await admin.put_table(gateway.table(number, number % 100))

    for number in range(revision, revision + changes):
        began = time.perf_counter()
        putting = asyncio.create_task(put(number))
        while await ask() < number:
            pass
        took.append((time.perf_counter() - began) * 1000)
        await putting
    writer.close()
    return took


async def _change(gateway: Gateway, changes: int, revision: int) -> float:
    """So many tables, one after the other. Seconds it took."""
    began = time.perf_counter()
    async with GatewayAdmin(gateway.admin_socket) as admin:
        for number in range(revision, revision + changes):
            await admin.put_table(gateway.table(number, (number * 37) % 101))
    return time.perf_counter() - began


def rows(field: Field, gateway: Gateway, is_quick: bool) -> list[Row]:
    """The three rows. The gateway's tables go on from revision 1000."""
    say("switching: how soon a table counts")
    took = asyncio.run(applied_ms(gateway, 10 if is_quick else 40, 1000))
    note = f"from the put to the first answer under it, median of {len(took)}; worst {max(took):.1f} ms"
    found = [limited("weights applied", "ms", took, at_most=10.0, note=note)]

    changes = 200 if is_quick else 1000
    say(f"switching: {changes} changes under load")
    load = _Background(field, Order("closed", gateway.port, 3600.0, CONNECTIONS, total=0))
    seconds = asyncio.run(_change(gateway, changes, 2000))
    answered = load.stop()
    note = f"{changes} tables in {seconds:.1f} s under {answered['answered']} requests, c={CONNECTIONS}"
    found.append(limited("failed in weight changes", "requests", [float(answered["failed"])], at_most=0.0, note=note))

    total, weight = 20_000, 20
    say(f"switching: the share of {weight} % over {total} requests")
    asyncio.run(_put(gateway, gateway.table(4000, weight)))
    releases = field.load(Order("closed", gateway.port, 0.0, CONNECTIONS, total=total))["releases"]
    share = 100 * releases.get("bench-canary", 0) / sum(releases.values())
    note = f"{share:.2f} % measured of {weight} % set, {sum(releases.values())} requests"
    found.append(limited("share off by", "points", [abs(share - weight)], at_most=1.0, note=note))
    return found


async def _put(gateway: Gateway, table: dict[str, Any]) -> None:
    async with GatewayAdmin(gateway.admin_socket) as admin:
        await admin.put_table(table)


class _Background:
    """A load that runs until it is told to stop."""

    def __init__(self, field: Field, order: Order) -> None:
        self._found: dict[str, Any] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(field, order), name="load")
        self._thread.start()

    def _run(self, field: Field, order: Order) -> None:
        self._found = field.load(order, self._stop)

    def stop(self) -> dict[str, Any]:
        """What it found."""
        self._stop.set()
        self._thread.join()
        return self._found
