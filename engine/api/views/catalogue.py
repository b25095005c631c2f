"""The registry's models and versions as the API answers them, and the routes' readers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from engine.registry_catalogue import Seen
from state.words import UsageError

if TYPE_CHECKING:
    from engine.api.reader import Reader

MOST = 1000


def readers(reader: Reader) -> Mapping[str, Callable[[Request], Awaitable[Any]]]:
    """Path → reader."""

    async def models(request: Request) -> Any:
        asked = request.query_params
        return _answer(await reader.catalogue.models(asked.get("q", ""), _limit(request), asked.get("page", "")))

    async def versions(request: Request) -> Any:
        asked = request.query_params
        model, text = asked.get("model", ""), asked.get("q", "")
        return _answer(await reader.catalogue.versions(model, text, _limit(request), asked.get("page", "")))

    async def version(request: Request) -> Any:
        asked = request.query_params
        if not (asked.get("model") and asked.get("version")):
            raise UsageError("a version is asked for by ?model= and ?version=", code="query")
        return _answer(await reader.catalogue.details(asked["model"], asked["version"]))

    return {
        "/v1/catalogue/models": models,
        "/v1/catalogue/versions": versions,
        "/v1/catalogue/version": version,
    }


def _answer(seen: Seen[Any]) -> dict[str, Any]:
    """The value, with `seen_at` (Unix seconds) and, where the registry could not be asked again, `trouble`."""
    return {"value": asdict(seen.value), "seen_at": seen.at, "trouble": seen.trouble}


def _limit(request: Request) -> int:
    text = request.query_params.get("limit", "100")
    if not (text.isdecimal() and 1 <= int(text[:9]) <= MOST):
        raise UsageError(f"limit is a number from 1 to {MOST}, not {text!r}", code="query")
    return int(text)
