"""A worker that runs out of descriptors: clients that only hold connections open, and replicas that are not to blame."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.gateway.pool import AttemptFailed, Pool
from engine.gateway.wire.errors import NoRoom
from engine.gateway.wire.wire import Wire

BODY = b'{"model": "chat", "prompt": "x"}'
ASKED = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)
HOLDS = """
import resource, socket, sys
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", int(sys.argv[1]))) for _ in range(400)]
print("held", flush=True)
sys.stdin.read(1)
"""


def lowest() -> int:
    """The number that the next descriptor would get; the limit when there is none."""
    try:
        descriptor = os.dup(0)
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.close(descriptor)
    return descriptor


@contextmanager
def at_most(more: int) -> Iterator[None]:
    """This process may have `more` descriptors than it has now."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_clients_that_hold_connections_open_keep_nobody_from_a_replica(house: Any) -> None:
    with at_most(200):
        await house.start()
        early = [await asyncio.open_connection("127.0.0.1", house.port) for _ in range(12)]
        words = [sys.executable, "-c", HOLDS, str(house.port)]
        holder = await asyncio.to_thread(subprocess.Popen, words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdout is not None
        with holder:
            assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"
            known = -1
            while known != (known := lowest()):  # until no more are accepted
                await asyncio.sleep(0.1)
            for _, writer in early:
                writer.write(ASKED)
            answers = await asyncio.gather(*(reader.read() for reader, _ in early))
            holder.kill()
        assert {answer.split(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
        assert (await house.ask())[0] == 200, "once they are gone a new connection is taken"
        for _, writer in early:
            writer.close()


async def test_a_replica_is_not_put_out_for_our_own_want_of_descriptors(tmp_path: Path) -> None:
    async def ready(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    listening = await asyncio.start_unix_server(ready, tmp_path / "s")
    address = f"unix:{tmp_path / 's'}"
    pool = Pool(ping_every_s=0.01)
    await pool.bring_in({"s1": address})
    assert pool.healthy == {"s1"}
    with at_most(0):
        for _ in range(20):
            with pytest.raises(AttemptFailed) as failed, pool.guard(pool.replicas["s1"]):
                await Wire(address).get("/ready")
            assert isinstance(failed.value.__cause__, NoRoom) and not failed.value.was_sent
            await asyncio.sleep(0.01)
        assert pool.healthy == {"s1"}
    await pool.close()
    listening.close()
