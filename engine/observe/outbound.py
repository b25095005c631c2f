"""HTTP clients for what lies outside: made so that loading certificates does not hold the event loop."""

from __future__ import annotations

import asyncio
import functools
import ssl
from typing import Any

import httpx


@functools.cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def open_client(timeout_s: float, **options: Any) -> httpx.AsyncClient:
    """A client with the system's certificates, loaded once, in a thread (tens of milliseconds). The caller closes it.

    `verify` among the options is another context.
    """
    if "verify" not in options:
        options["verify"] = await asyncio.to_thread(_certificates)
    return httpx.AsyncClient(timeout=timeout_s, **options)
