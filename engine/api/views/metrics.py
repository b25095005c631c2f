"""Questions in PromQL, as the API answers them, and the routes' readers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from state.words import UsageError

if TYPE_CHECKING:
    from engine.api.reader import Reader


def readers(reader: Reader) -> Mapping[str, Callable[[Request], Awaitable[Any]]]:
    """Path → reader."""

    async def metric(request: Request) -> Any:
        asked = request.query_params
        if not asked.get("query", "").strip():
            raise UsageError("a metric is asked for by ?query=", code="query")
        answer = await reader.metric.ask(
            asked["query"].strip(),
            asked.get("service", ""),
            asked.get("env", ""),
            _seconds(request, "range_s"),
            _seconds(request, "step_s"),
        )
        return answer.as_dict()

    async def profiles(_: Request) -> Any:
        return await reader.probe.look()

    return {"/v1/metric": metric, "/v1/metric/profiles": profiles}


def _seconds(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{name} is a number of seconds above 0, not {text!r}", code="query")
    return value
