"""One request to a track, a release or a replica, past the gateway: to see with one's own eyes what it answers.

It counts for no judge and no objective, and is told from users' requests by never having been at the gateway.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlmodel import Session, select
from starlette.requests import Request

from adapters.local.tables import role_of
from adapters.ports import ReplicaStatus
from engine.access import Actor, demand
from engine.operations.desk import Desk, known_env
from engine.operations.replicas import pick
from engine.rollouts.planning import check_names
from state.models import TrackState
from state.words import Conflict, OperationFailed, TimedOut, Unreachable, UsageError

TIMEOUT_S = 60.0
LONGEST_S = 600.0
VERB = "service.restart"
"""Who may end a replica may ask it: the gateway's keys and limits do not stand before it."""


class AskRequest(BaseModel):
    """What is asked, of whom: exactly one of `track`, `release` and `replica` (a beginning of its id) is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    service: str
    env: str
    prompt: str
    max_tokens: int = Field(default=32, ge=1, le=100_000)
    temperature: float | None = Field(default=None, ge=0, le=5)
    seed: int | None = None
    track: str = ""
    release: str = ""
    replica: str = ""
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, le=LONGEST_S)


def asker(desk: Desk) -> Callable[[Request], Awaitable[dict[str, Any]]]:
    """The route's answer."""

    async def ask(request: Request) -> dict[str, Any]:
        try:
            wish = AskRequest.model_validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", code="request") from error
        return await ask_one(desk, wish, Actor.of_uid(request.state.peer.uid))

    return ask


async def ask_one(desk: Desk, wish: AskRequest, actor: Actor) -> dict[str, Any]:
    """The answer of the replica that is meant, with its facts.

    Raises Denied; UsageError where it is not said who is meant; Conflict where nobody of those answers; TimedOut, Unreachable.
    """
    check_names(desk.config, wish.service, known_env(desk.config, wish.env))
    demand(desk.config, wish.env, actor, VERB)
    if sum(map(bool, (wish.track, wish.release, wish.replica))) != 1:
        raise UsageError("ask one of a track, a release, a replica", code="whom")
    track = wish.track
    there = desk.controller.world.runtime.replicas(wish.service, wish.env)
    if wish.replica:
        one = pick(there, wish.replica, f"{wish.service} in {wish.env}")
    else:
        release, role = await desk.store.read(lambda s: _meant(s, wish))
        one = _ready(there, release, role, wish)
    started = time.monotonic()
    answer = await _post(one, wish)
    return {
        "service": wish.service,
        "env": wish.env,
        "text": "".join(str(choice.get("text", "")) for choice in answer.get("choices", [])),
        "release": one.release_id,
        "track": track or one.role,
        "replica": one.spawn_id,
        "latency_ms": round((time.monotonic() - started) * 1000, 1),
        "usage": answer.get("usage"),
    }


def _meant(session: Session, wish: AskRequest) -> tuple[str, str]:
    """Release and role of the replicas that are meant."""
    if wish.release:
        return wish.release, ""
    rows = session.exec(select(TrackState).where(TrackState.service == wish.service, TrackState.env == wish.env)).all()
    found = next((row for row in rows if row.track == wish.track), None)
    if found is None:
        there = ", ".join(sorted(row.track for row in rows)) or "none"
        raise Conflict(
            f"{wish.service} has no track {wish.track} in {wish.env}", hint=f"there are: {there}", code="no_track"
        )
    return found.release_id, role_of(found.track)  # fmt: skip


def _ready(there: list[ReplicaStatus], release: str, role: str, wish: AskRequest) -> ReplicaStatus:
    ready = [r for r in there if (r.release_id, r.role) == (release, role) and r.is_ready and r.is_alive]
    if not ready:
        others = ", ".join(sorted({r.release_id for r in there if r.is_ready})) or "none"
        raise Conflict(
            f"no replica of {release} answers for {wish.service} in {wish.env}",
            hint=f"releases that do: {others}",
            code="no_replica",
        )
    return ready[0]


async def _post(one: ReplicaStatus, wish: AskRequest) -> dict[str, Any]:
    is_here = one.address.startswith("unix:")
    transport = httpx.AsyncHTTPTransport(uds=one.address.removeprefix("unix:") if is_here else None, verify=False)
    given = {"temperature": wish.temperature, "seed": wish.seed}
    body = {"model": wish.service, "prompt": wish.prompt, "max_tokens": wish.max_tokens, "stream": False}
    body |= {name: value for name, value in given.items() if value is not None}
    where = f"{one.spawn_id} ({one.release_id})"
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://replica" if is_here else one.address, timeout=wish.timeout_s, trust_env=False
        ) as client:  # fmt: skip
            response = await client.post("/v1/completions", json=body)
            found = response.json() if response.status_code == 200 else None
    except httpx.TimeoutException as error:
        raise TimedOut(f"{where} did not answer within {wish.timeout_s:g} s") from error
    except (httpx.HTTPError, OSError, ValueError) as error:
        raise Unreachable(
            f"{where} does not answer: {error or type(error).__name__}",
            hint=f"airboss service logs {wish.service} {one.spawn_id}",
        ) from error
    if not isinstance(found, dict):
        raise OperationFailed(
            f"{where} answered {response.status_code}: {_said(response)}",
            hint=f"airboss service logs {wish.service} {one.spawn_id}",
        )
    return found


def _said(response: httpx.Response) -> str:
    """What an answer says is wrong: OpenAI's error message, else the beginning of the body."""
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
