"""Asynchronous requests through the gateway: a job is sent like any request, and belongs to the replica that took it.

Nobody here remembers which that was, so whoever asks for a job later makes every replica of the service be asked: one
has it, the others have never heard of it. That survives a restart of the gateway, and any number of its workers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

from aiohttp import web

from adapters.ports import Route
from engine.gateway.access.identity import Identity
from engine.gateway.access.prompt import body_of
from engine.gateway.answers import Refused, error_answer, json_answer
from engine.gateway.pool import Pool
from engine.gateway.wire.errors import NotHttp, TooLarge
from state.words import Track

JOBS_PATH = "/v1/jobs"
METHODS = ("GET", "DELETE")
ANSWER_TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 32 << 20
_Heard = tuple[int, bytes]


def is_jobs(rest: str) -> bool:
    """The path is the jobs' or one job's."""
    return rest == JOBS_PATH or rest.startswith(f"{JOBS_PATH}/")


def inner_body(body: bytes) -> bytes:
    """What a job asks its endpoint: it says which model is meant and how much is asked for. Raises Refused."""
    inner = body_of(body).get("body")
    if not isinstance(inner, dict):
        message = 'a job is {"endpoint": …, "body": {…}}: body must be what would be posted to the endpoint'
        raise Refused("bad_json", error_answer(400, "invalid_request", "bad_json", message, param="body"))
    return json.dumps(inner).encode()


def refuse_unchecked(route: Route) -> None:
    """Raise Refused where answers are checked: a job's is fetched later, past the checks."""
    if route.access is not None and route.access.safety is not None:
        message = (
            f"{route.service} takes no jobs through this gateway: its prompts and answers are checked, and a job's are "
            "not; send the request itself"
        )
        raise Refused("content_policy", error_answer(400, "invalid_request", "jobs_unchecked", message))


def refuse_list_without_tenant(rest: str, identity: Identity | None) -> None:
    """Raise Refused: whoever is nobody in particular would see everybody's jobs. A job's id is hard enough to guess."""
    if rest == JOBS_PATH and not (identity is not None and identity.tenant):
        message = "jobs are listed by who sent them, and this gateway does not know who asks; ask for a job by its id"
        raise Refused("forbidden", error_answer(403, "permission_denied", "jobs_of_nobody", message))


async def ask_around(pool: Pool, routes: Iterable[Route], method: str, path: str, lines: bytes) -> web.Response:
    """Ask every replica of `routes` that serves callers, and answer with what the job's own one says."""
    known = dict.fromkeys(
        spawn_id
        for route in routes
        for backend in route.backends
        if backend.track != Track.SHADOW
        for spawn_id, _ in backend.replicas
        if spawn_id in pool.replicas
    )
    heard = await asyncio.gather(*(_ask(pool, spawn_id, method, path, lines) for spawn_id in known))
    return _merged(heard) if path == JOBS_PATH else _own(heard)


def _own(heard: Sequence[_Heard | None]) -> web.Response:
    for one in heard:
        if one is not None and one[0] != 404:
            return web.Response(status=one[0], body=one[1], content_type="application/json")
    if None in heard:
        message = "not every replica could be asked for the job, and the others do not have it; try again in 1 s"
        headers = {"Retry-After": "1"}
        return error_answer(503, "service_unavailable", "replica_unreachable", message, headers=headers)
    message = "there is no such job: it never was, its result expired, or the replica that took it has ended"
    return error_answer(404, "not_found", "not_found", message)


def _merged(heard: Sequence[_Heard | None]) -> web.Response:
    found: list[Any] = []
    for one in heard:
        data = body_of(one[1]).get("data") if one is not None and one[0] == 200 else None
        found += data if isinstance(data, list) else []
    return json_answer({"object": "list", "data": found})


async def _ask(pool: Pool, spawn_id: str, method: str, path: str, lines: bytes) -> _Heard | None:
    """A replica's status and body; None when it does not say."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            answer = await pool.replicas[spawn_id].wire.ask(method, path, lines)
            try:
                return answer.status, await answer.read(MAX_ANSWER_BYTES)
            finally:
                answer.close()
    except (OSError, TimeoutError, TooLarge, NotHttp):
        return None
