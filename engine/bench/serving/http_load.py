"""Clients of a model server: so many at once, each asking again when it was answered."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from engine.bench.serving.sides import Server
from state.words import OperationFailed

ANSWER_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: seconds after its request was sent, and the tokens the server says it generated."""

    first_s: float
    """Until the first piece of text; of an answer that was not streamed, all of it."""
    total_s: float
    tokens: int
    client: int
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """A load's answers and how long they took together."""

    seconds: float
    answers: tuple[Answer, ...]

    @property
    def requests_per_s(self) -> float:
        """Answers a second."""
        return len(self.answers) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens a second."""
        return sum(answer.tokens for answer in self.answers) / self.seconds


def load(server: Server, path: str, bodies: Sequence[dict[str, Any]], clients: int, enough: int = 0) -> Found:
    """Ask everything in `bodies`, `clients` at a time. With `enough`, return after that many answers and hang up.

    Raises OperationFailed on any answer that is not a 200: a rate of failures is no rate.
    """
    return asyncio.run(_load(server, path, bodies, clients, enough or len(bodies)))


async def _load(server: Server, path: str, bodies: Sequence[dict[str, Any]], clients: int, enough: int) -> Found:
    waiting = iter(bodies)
    answers: list[Answer] = []
    is_enough = asyncio.Event()
    connector = aiohttp.UnixConnector(server.uds, limit=0) if server.uds else aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=ANSWER_S)
    async with aiohttp.ClientSession(server.url, connector=connector, timeout=timeout) as session:
        began = time.perf_counter()

        async def client(number: int) -> None:
            for body in waiting:
                answers.append(await _ask(session, server.name, path, body, number))
                if len(answers) >= enough:
                    is_enough.set()

        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        stop = asyncio.create_task(is_enough.wait())
        pending: set[asyncio.Task[Any]] = set(tasks)
        try:
            while not stop.done() and pending:
                done, pending = await asyncio.wait({*pending, stop}, return_when=asyncio.FIRST_COMPLETED)
                pending.discard(stop)
                for task in done:
                    task.result()
            seconds = time.perf_counter() - began
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)
    return Found(seconds, tuple(answers))


async def _ask(session: aiohttp.ClientSession, name: str, path: str, body: dict[str, Any], client: int) -> Answer:
    began = time.perf_counter()
    async with session.post(path, json=body) as response:
        if response.status != 200:
            said = (await response.text())[:300]
            raise OperationFailed(f"{name} answered {response.status} to a request of the bench: {said}")
        if body.get("stream"):
            first, tokens, text = await _stream(response, began)
        else:
            value = await response.json()
            first, (tokens, text) = time.perf_counter() - began, _whole(value)
    return Answer(first, time.perf_counter() - began, tokens, client, text)


def _whole(value: dict[str, Any]) -> tuple[int, str]:
    """Tokens and text of an answer that came at once, in OpenAI's words or the seed's."""
    if "choices" not in value:
        return int(value["tokens_generated"]), str(value["text"])
    return int(value["usage"]["completion_tokens"]), _text_of(value["choices"])


async def _stream(response: aiohttp.ClientResponse, began: float) -> tuple[float, int, str]:
    """When the first text came, how many tokens there were, and the text.

    An event may carry several tokens: ask for `stream_options.include_usage` where their number matters.
    """
    first, events, counted, text = 0.0, 0, None, ""
    async for line in response.content:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        piece = _text_of(event.get("choices", ()))
        if piece:
            first = first or time.perf_counter() - began
            events += 1
            text += piece
        if event.get("usage"):
            counted = int(event["usage"]["completion_tokens"])
    return first or time.perf_counter() - began, events if counted is None else counted, text


def _text_of(choices: Iterable[dict[str, Any]]) -> str:
    """The text of an answer's or event's choices."""
    pieces = []
    for choice in choices:
        said = choice.get("message") or choice.get("delta") or {}
        pieces.append(choice.get("text") or said.get("content") or "")
    return "".join(pieces)
