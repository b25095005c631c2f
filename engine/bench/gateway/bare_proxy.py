"""`python -m engine.bench.gateway.bare_proxy PORT UPSTREAM_PORT`: the aiohttp proxy anybody would write first.

One process, uvloop, no middleware, no counting, no choosing: what is read is sent on, what comes back is sent back,
whole when its length is known and chunk by chunk else. The gateway's cost is measured against this one.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web

_DROPPED = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive"})


async def _serve(port: int, upstream_port: int) -> None:
    base = f"http://127.0.0.1:{upstream_port}"
    connector = aiohttp.TCPConnector(limit=0)
    skipped = ("User-Agent", "Accept", "Accept-Encoding")
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False, skip_auto_headers=skipped) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
            body = await request.read()
            async with session.request(request.method, base + request.path_qs, data=body, headers=headers) as answer:
                back = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
                if answer.content_length is not None:
                    return web.Response(status=answer.status, body=await answer.read(), headers=back)
                response = web.StreamResponse(status=answer.status, headers=back)
                await response.prepare(request)
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
                return response

        server = web.Server(handle, access_log=None)
        listening = await asyncio.get_running_loop().create_server(server, "127.0.0.1", port, backlog=1024)
        await listening.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
