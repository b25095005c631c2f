"""The console's side of the wire: addresses, deadlines, decoding, and what each failure means to a person."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlencode

from pydantic import BaseModel, ValidationError

from engine.api.schemas import Event
from state.words import OperationFailed, TimedOut, Unreachable, error_from_dict

if TYPE_CHECKING:
    import httpcore

CONNECT_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 5.0
VERB_TIMEOUT_S = 45.0
EVENTS_IDLE_S = 45.0
"""An event stream that says nothing, not even a comment, for this long is taken for dead."""

_UP = "start the engine with `airboss up -d`"
_M = TypeVar("_M", bound=BaseModel)
Query = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: a Unix socket, or the URL of one reached some other way."""

    socket: str = ""
    url: str = "http://engine"

    def __str__(self) -> str:
        return self.socket or self.url


def query(params: Query | None) -> dict[str, str]:
    """Query parameters as the wire wants them; None is left out, True is 1."""
    return {k: str(int(v)) if isinstance(v, bool) else str(v) for k, v in (params or {}).items() if v is not None}


def read(model: type[_M], body: bytes | str) -> _M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise alien(error) from error


def read_list(model: type[_M], value: Any) -> list[_M]:
    try:
        return [model.model_validate(item) for item in value]
    except (ValidationError, TypeError) as error:
        raise alien(error) from error


def alien(error: Exception) -> OperationFailed:
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    return OperationFailed(
        f"the engine's answer is not one that this console understands ({first})",
        hint="console and engine are of different versions: `airboss up -d` hands over to this one",
        code="protocol",
    )


def check(response: httpcore.Response, path: str) -> bytes:
    """The body, read, of a good answer; raises the AirbossError that a bad one carries."""
    if response.status < 400:
        return response.content
    try:
        body = json.loads(response.content)
        fault = body["error"]
    except (ValueError, KeyError, TypeError):
        lines = response.content.decode(errors="replace").strip().splitlines()
        text = lines[0][:200] if lines else "no explanation"
        raise OperationFailed(
            f"the engine answered {response.status} to {path}: {text}",
            hint="`airboss status` and the engine's log say more",
            code="http",
        ) from None
    raise error_from_dict(fault if isinstance(fault, dict) else {"message": str(fault)})


def reraise(error: Exception, address: Address, timeout_s: float, *, acts: bool, is_keyed: bool = False) -> NoReturn:
    """Raise what a failure of the transport means to a person; `is_keyed`: an idempotency key was given."""
    import httpcore

    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        raise Unreachable(f"the engine does not answer at {address}", hint=_UP) from error
    if isinstance(error, httpcore.TimeoutException):
        if acts:
            raise TimedOut(
                f"the engine took the verb and has not answered within {timeout_s:g} s; it may still be done",
                hint="ask again with the same --idempotency-key"
                if is_keyed
                else "look at the object before trying again",
            ) from error
        raise Unreachable(f"the engine at {address} did not answer within {timeout_s:g} s", hint=_UP) from error
    raise Unreachable(
        f"the connection to the engine at {address} broke: {error or type(error).__name__}", hint=_UP
    ) from error


def faults() -> tuple[type[Exception], ...]:
    """What can go wrong with the transport, for `except`."""
    import httpcore

    return httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol


def sse_data(line: str) -> Event | None:
    """The event on a `data:` line of the stream, None for any other line."""
    if not line.startswith("data:"):
        return None
    return read(Event, line[5:].strip())


class EngineAt:
    """An engine's address and how it is asked.

    httpcore, which is what httpx sends with: importing all of httpx takes as long as the question.
    """

    def __init__(self, address: Address, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        self.address = address
        self.timeout_s = timeout_s

    def _url(self, path: str, params: Query | None = None) -> str:
        asked = urlencode(query(params))
        return f"{self.address.url}{path}{'?' if asked else ''}{asked}"

    def _within(self, timeout_s: float | None = None) -> dict[str, dict[str, float]]:
        wait = self.timeout_s if timeout_s is None else timeout_s
        connect = min(CONNECT_TIMEOUT_S, wait)
        return {"timeout": {"connect": connect, "read": wait, "write": wait, "pool": wait}}


KEPT_OPEN_S = 5.0
"""A connection that was idle for longer is opened anew."""
Headers = dict[bytes | str, bytes | str]
JSON: Headers = {"content-type": "application/json"}
