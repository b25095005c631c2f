"""Alertmanager, by its API v2: our alerts to every peer, everybody's alerts from any of them, silences in their place.

Peers of a cluster share silences and notifications by gossip, but not alerts: a client sends each alert to all of them and again
before its `endsAt` passes (prometheus.io/docs/alerting/latest/clients), or it resolves there by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adapters.guard import REST_S, TRIES, Guard, Standing
from adapters.ports import OutsideAlert, OutsideSilence
from state.server_config import Credentials
from state.words import Conflict, Unreachable

T = TypeVar("T")

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 32 << 20


class _Status(BaseModel):
    state: str = ""


class _Alert(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    fingerprint: str
    labels: dict[str, str]
    annotations: dict[str, str] = Field(default_factory=dict)
    starts_at: datetime = Field(alias="startsAt")
    generator_url: str = Field(default="", alias="generatorURL")
    status: _Status = _Status()


class _Silence(BaseModel):
    id: str
    comment: str = ""
    status: _Status = _Status()


@dataclass(frozen=True, slots=True)
class _Answer:
    url: str
    body: Any


class Alertmanagers:
    """The peers at `urls`. Every call has a deadline; one that does not answer keeps no other waiting."""

    def __init__(
        self,
        urls: Sequence[str],
        credentials: Credentials | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        rest_s: float = REST_S,
    ) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._credentials = credentials or Credentials()
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None
        goes_on = "alerts here, our own hooks; silences wait"
        self._guards = {url: Guard(f"alertmanager {url}", goes_on=goes_on, rest_s=rest_s) for url in self.urls}

    def standings(self) -> tuple[Standing, ...]:
        """How each peer stands."""
        return tuple(guard.standing() for guard in self._guards.values())

    async def send(self, alerts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Give `alerts` (API v2's PostableAlerts) to every peer. Returns what went wrong, by peer; "" for nothing."""

        async def one(url: str) -> str:
            try:
                await self._ask("POST", url, "/alerts", list(alerts))
            except Unreachable as error:
                return error.message
            return ""

        return dict(zip(self.urls, await asyncio.gather(*map(one, self.urls)), strict=True))

    async def active(self) -> tuple[OutsideAlert, ...]:
        """What is active, silenced or not, at the first peer that answers. Raises Unreachable when none does."""
        answer = await self._first("GET", "/alerts?active=true&silenced=true&inhibited=true")
        return tuple(
            OutsideAlert(
                fingerprint=one.fingerprint,
                labels=one.labels,
                annotations=one.annotations,
                starts_at=one.starts_at.timestamp(),
                is_quiet=one.status.state == "suppressed",
                link=one.generator_url,
            )
            for one in _parsed(answer, TypeAdapter(list[_Alert]))
        )

    async def silences(self) -> tuple[OutsideSilence, ...]:
        """Every silence it remembers, in force or over. Raises Unreachable."""
        answer = await self._first("GET", "/silences")
        return tuple(
            OutsideSilence(one.id, one.comment, one.status.state == "expired")
            for one in _parsed(answer, TypeAdapter(list[_Silence]))
        )

    async def silence(
        self, matchers: Mapping[str, str], *, by: str, comment: str, starts_at: float, ends_at: float
    ) -> str:
        """Make a silence of equal matchers; returns its id. Raises Unreachable, Conflict when it is refused."""
        body = {
            "matchers": [{"name": n, "value": v, "isRegex": False, "isEqual": True} for n, v in sorted(matchers.items())],
            "startsAt": rfc3339(starts_at), "endsAt": rfc3339(ends_at), "createdBy": by, "comment": comment,
        }  # fmt: skip
        answer = await self._first("POST", "/silences", body)
        return str(answer.body["silenceID"])

    async def expire(self, silence_id: str) -> None:
        """End a silence; one that is gone is ended. Raises Unreachable."""
        try:
            await self._first("DELETE", f"/silence/{silence_id}")
        except Conflict:
            return

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _first(self, method: str, path: str, body: Any = None) -> _Answer:
        """The answer of the first peer that gives one."""
        said = []
        for url in self.urls:
            try:
                return await self._ask(method, url, path, body)
            except Unreachable as error:
                said.append(error.message)
        raise Unreachable("; ".join(said), hint="see [alerts] alertmanager in airboss.toml")

    async def _ask(self, method: str, url: str, path: str, body: Any = None) -> _Answer:
        # A silence that was made and not heard of would be made twice; its maker looks first, a turn later.
        tries = 1 if (method, path) == ("POST", "/silences") else TRIES
        return await self._guards[url].call(
            lambda: self._once(method, url, path, body), limit_s=TRIES * self._timeout_s + 1, tries=tries
        )

    async def _once(self, method: str, url: str, path: str, body: Any) -> _Answer:
        client = await self._open()
        try:
            async with asyncio.timeout(self._timeout_s), client.stream(method, f"{url}/api/v2{path}", json=body) as got:
                text = bytearray()
                async for part in got.aiter_bytes():
                    text += part
                    if len(text) > MAX_ANSWER_BYTES:
                        raise Unreachable(f"Alertmanager {url} answered with more than {MAX_ANSWER_BYTES >> 20} MiB")
        except TimeoutError:
            raise Unreachable(f"Alertmanager {url}: no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"Alertmanager {url}: {type(error).__name__}: {error}"[:300]) from None
        if got.status_code in (401, 403):
            raise Unreachable(
                f"Alertmanager {url} does not let us in ({got.status_code})", hint="see [alerts] alertmanager_access"
            )
        if got.status_code in (400, 404):
            raise Conflict(f"Alertmanager {url} refused {method} {path.partition('?')[0]}: {bytes(text[:200])!r}")
        if got.status_code >= 300:
            raise Unreachable(f"Alertmanager {url} answered {got.status_code}")
        return _Answer(url, _json(url, bytes(text)) if text else None)

    async def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            own = self._credentials
            self._client = httpx.AsyncClient(
                timeout=self._timeout_s, headers=own.headers, auth=own.basic, verify=await asyncio.to_thread(own.tls)
            )
        return self._client


def rfc3339(at: float) -> str:
    """`at` (Unix seconds) as the API writes times."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(url: str, text: bytes) -> Any:
    try:
        return TypeAdapter(Any).validate_json(text)
    except ValidationError:
        raise Unreachable(
            f"Alertmanager {url} answered something that is no JSON: {text[:60]!r}",
            hint="a proxy's login page? see the address in [alerts] alertmanager",
        ) from None


def _parsed(answer: _Answer, shape: TypeAdapter[T]) -> T:
    try:
        return shape.validate_python(answer.body)
    except ValidationError as error:
        raise Unreachable(
            f"Alertmanager {answer.url} answered in another shape than API v2's: {error.errors()[0]['msg']}",
            hint="is it Alertmanager 0.16 or newer?",
        ) from None
