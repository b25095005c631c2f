"""One Prometheus server over its HTTP API: what it is asked, and which of its answers must not be used. All calls block."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from state.server_config import Credentials
from state.words import NoDataCause, OperationFailed, Unreachable

if TYPE_CHECKING:
    from prometheus_api_client import PrometheusConnect
    from requests import Response


LATELY_S = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Series as they came: labels and (Unix seconds, value) points; values are text, for NaN and +Inf are among them."""

    series: Sequence[tuple[Mapping[str, str], Sequence[tuple[float, str]]]]
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """The server at `url`. Raises Refused, NoAnswer for an answer that is none, and requests' errors."""

    url: str
    credentials: Credentials

    def range(
        self, query: str, start: float, end: float, step_s: float, *, timeout_s: float
    ) -> list[Mapping[str, Any]]:
        """Series of `query` from `start` to `end` (Unix seconds): `metric`, and `values` as [second, text] pairs."""
        found: list[Mapping[str, Any]] = self._client().custom_query_range(
            query=query, start_time=datetime.fromtimestamp(start, UTC), end_time=datetime.fromtimestamp(end, UTC),
            step=f"{step_s:g}", params={"timeout": f"{timeout_s:g}s"}, timeout=timeout_s,
        )  # fmt: skip
        return found

    def over(self, query: str, start: float, end: float, step_s: float, *, timeout_s: float) -> Answer:
        """The same for people: warnings are said, not refused."""
        said: list[str] = []
        found = self._client(said).custom_query_range(
            query=query, start_time=datetime.fromtimestamp(start, UTC), end_time=datetime.fromtimestamp(end, UTC),
            step=f"{step_s:g}", params={"timeout": f"{timeout_s:g}s"}, timeout=timeout_s,
        )  # fmt: skip
        return Answer([(one["metric"], _points(one["values"])) for one in found], said)

    def instant(self, query: str, at: float, *, timeout_s: float) -> Answer:
        """What `query` is at one time: a point a series, of a scalar or a text one without labels."""
        said: list[str] = []
        params = {"time": f"{at:.3f}", "timeout": f"{timeout_s:g}s"}
        found = self._client(said).custom_query(query, params=params, timeout=timeout_s)
        if found and not isinstance(found[0], dict):
            return Answer([({}, _points([found]))], said)
        return Answer([(one["metric"], _points(one.get("values") or [one["value"]])) for one in found], said)

    def label_names(self, selector: str, at: float, *, timeout_s: float) -> list[str]:
        """The labels that series of `selector` have had lately."""
        client = self._client([], timeout_s)
        params = {"match[]": selector, "start": f"{at - LATELY_S:.0f}"}
        return [str(name) for name in client.get_label_names(params=params)]

    def _client(self, warned: list[str] | None = None, timeout_s: float | None = None) -> PrometheusConnect:
        """A client; warnings are put into `warned`, and refuse the answer where that is None."""
        from prometheus_api_client import PrometheusConnect
        from requests import Session
        from urllib3.util import Retry

        own = self.credentials
        session = Session()
        session.verify, session.cert = own.ca or True, own.client
        session.hooks["response"].append(partial(_look_at, warned))
        return PrometheusConnect(
            url=self.url,
            headers=own.headers or None,
            auth=own.basic,
            session=session,
            retry=Retry(total=0, raise_on_status=False),
            timeout=timeout_s,
        )


class Refused(OperationFailed):
    """The server is up and does not take this question: its own words say why. `status` is 400 (PromQL) or 422 (while it ran)."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


class NoAnswer(Unreachable):
    """An answer that must not be used; the text says what it was and what to do."""

    def __init__(self, cause: NoDataCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


def no_answer(error: Exception) -> str:
    """Why nothing came, in a few words: requests tells of its pool, the address and the tries, and only then of the reason."""
    inner = getattr(error.args[0], "reason", None) if error.args else None
    text = str(error if inner is None else inner)
    if "timed out" in text:
        return "no answer in time"
    # "HTTPConnection(host=…): Failed to establish a new connection: [Errno 111] Connection refused"
    return re.sub(r"^.*\[Errno -?\d+\] ", "", text).rstrip(")")[:200]


def _points(values: Sequence[Sequence[Any]]) -> list[tuple[float, str]]:
    return [(float(at), str(value)) for at, value in values]


def _look_at(warned: list[str] | None, response: Response, *_: Any, **__: Any) -> None:
    """Refuse what the library would take, or say in its own words: a login page, a refusal, a part of the answer.

    An answer with `warnings` lacks what a store behind the server did not give (remote read, Thanos, Mimir): whole by its form, and
    short of the errors that would have failed a canary.
    """
    status = response.status_code
    if status in (401, 403):
        raise NoAnswer(NoDataCause.UNREACHABLE, f"does not let us in ({status}): see [metrics] access in airboss.toml")
    try:
        body = response.json()
    except ValueError:
        text = f"answered {status} with no JSON: a proxy's page? see [metrics] url in airboss.toml"
        raise NoAnswer(NoDataCause.UNREACHABLE, text) from None
    said = body if isinstance(body, dict) else {}
    if status in (400, 422) and said.get("status") == "error":
        raise Refused(f"answered {status}: {said.get('error', 'no reason given')}", status)
    if status >= 400 or said.get("status") != "success":
        raise NoAnswer(NoDataCause.UNREACHABLE, f"answered {status}: {said.get('error', 'no reason given')}")
    warnings = [str(one) for one in said.get("warnings") or ()]
    if warned is not None:
        warned += warnings
    elif warnings:
        raise NoAnswer(NoDataCause.PARTIAL, f"gave a part of the answer: {warnings[0]}")
