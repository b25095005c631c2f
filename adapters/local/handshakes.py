"""Asking a child who it is."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx

from adapters.local.child import ChildSpec
from adapters.local.spawn import Child

READY_POLL_S = 0.1
HANDSHAKE_TIMEOUT_S = 5.0
ADOPT_PATIENCE_S = 10.0
"""How long a new engine waits for the word of a living child before it takes it as its row has it."""
SILENT_S = 60.0
"""How long a child that was so taken may still say nothing before it is replaced: it hangs. A busy host is no reason."""


async def introduction(child: Child) -> dict[str, Any] | None:
    """What a living child says of itself, whoever it is, with patience: it may have its lock and no socket yet.

    None when it says nothing: it is dead, or too busy, or it hangs.
    """
    deadline = time.monotonic() + ADOPT_PATIENCE_S
    while True:
        said = await spoken(child.spec)
        if said is not None or not child.is_alive() or time.monotonic() > deadline:
            return said
        await asyncio.sleep(READY_POLL_S)


async def handshake(spec: ChildSpec) -> dict[str, Any] | None:
    """What the child says of itself, if it is the one meant; else None."""
    said = await spoken(spec)
    return said if said is not None and is_meant(said, spec) else None


def is_meant(said: dict[str, Any], spec: ChildSpec) -> bool:
    """Spawn id and digest agree."""
    return said.get("spawn_id") == spec.spawn_id and said.get("digest") == spec.digest


async def spoken(spec: ChildSpec) -> dict[str, Any] | None:
    """The answer to a handshake on the child's socket; None when there is none, or none that can be read."""
    try:
        # No TLS here: without verify=False the transport would read all root certificates, 35 ms of the event loop's time.
        transport = httpx.AsyncHTTPTransport(uds=spec.socket, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=HANDSHAKE_TIMEOUT_S) as client:
            answer = await client.get("http://child/admin/handshake")
        body = answer.json()
    except (httpx.HTTPError, ValueError, OSError):
        return None
    return body if isinstance(body, dict) else None
