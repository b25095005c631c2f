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
"""How long a living child of an earlier engine may take to say who it is before it is replaced: it may just be starting."""


async def introduction(child: Child) -> dict[str, Any] | None:
    """The handshake of a living child, with patience: it may have taken its lock and not opened its socket yet."""
    deadline = time.monotonic() + ADOPT_PATIENCE_S
    while True:
        facts = await handshake(child.spec)
        if facts is not None or not child.is_alive() or time.monotonic() > deadline:
            return facts
        await asyncio.sleep(READY_POLL_S)


async def handshake(spec: ChildSpec) -> dict[str, Any] | None:
    """What the child says of itself, if it is the one meant (spawn id and digest agree); else None."""
    try:
        # No TLS here: without verify=False the transport would read all root certificates, 35 ms of the event loop's time.
        transport = httpx.AsyncHTTPTransport(uds=spec.socket, verify=False)
        async with httpx.AsyncClient(transport=transport, timeout=HANDSHAKE_TIMEOUT_S) as client:
            answer = await client.get("http://child/admin/handshake")
        body = answer.json()
    except (httpx.HTTPError, ValueError, OSError):
        return None
    if not isinstance(body, dict) or body.get("spawn_id") != spec.spawn_id or body.get("digest") != spec.digest:
        return None
    return body
