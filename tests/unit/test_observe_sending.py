"""Webhooks, of alerts and of hooks alike: each try has its deadline, whatever the receiver does."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from engine.observe.sending import Undelivered, post


@pytest.mark.parametrize("drips", ["in its head", "after its head"])
async def test_a_receiver_that_never_ends_its_answer_holds_nobody(drips: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.observe.sending.WEBHOOK_TIMEOUT_S", 0.5)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\n" + (b"\r\n" if drips == "after its head" else b"")
        with contextlib.suppress(OSError):
            for piece in (head, *(b"X-A: b\r\n" for _ in range(2000))):
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.05)

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        told = post(f"http://{host}:{port}/", b"{}", attempts=1)
        async with asyncio.timeout(30):
            if drips == "after its head":
                await told
            else:
                with pytest.raises(Undelivered, match=r"no answer within 0\.5 s"):
                    await told
        server.close()
