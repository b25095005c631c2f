"""Two releases side by side, and data sets, as the API answers them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlmodel import Session, col, select
from starlette.requests import Request

from engine.comparing.comparison import compare
from engine.comparing.reading import read_evaluation, read_live
from engine.datasets.feedback import ratings, read_words
from state.models import Dataset, Release
from state.words import UsageError

if TYPE_CHECKING:
    from engine.api.reader import Reader

LONGEST_S = 30 * 86_400.0


def readers(reader: Reader) -> Mapping[str, Callable[[Request], Awaitable[Any]]]:
    """Path → reader."""

    async def comparison(request: Request) -> Any:
        asked = request.query_params
        names = (asked.get("with", ""), request.path_params["id"])
        since_s = _seconds(asked.get("last_s", "86400"))
        a, b = await reader.store.read(lambda s: tuple(_release(s, name) for name in names))
        if a.id == b.id:
            raise UsageError(f"{a.id} with itself: there is nothing to compare", code="same_release")
        if a.service != b.service:
            raise UsageError(
                f"{a.id} is a release of {a.service}, {b.id} of {b.service}: their users ask different things",
                hint="compare two releases of one service",
                code="other_service",
            )
        now = time.time()
        env = asked.get("env", "")
        live = await reader.store.read(lambda s: read_live(s, a.service, (a.id, b.id), env, now - since_s))
        settings = reader.config.service.get(a.service)
        price = settings.cost.usd_per_hour if settings is not None else 0.0
        words = await asyncio.to_thread(
            lambda: ratings(word for word in read_words(reader.paths.gateway) if word.at > now - since_s)
        )
        rated = _rated(words.get(a.id, Counter())), _rated(words.get(b.id, Counter()))
        found = await asyncio.to_thread(
            lambda: compare(
                (a.id, live[a.id], read_evaluation(Path(a.bundle_path))),
                (b.id, live[b.id], read_evaluation(Path(b.bundle_path))),
                price,
                rated,
            )
        )
        rows = [{**asdict(row), "change_pct": row.change_pct} for row in found.rows]
        return {
            "a": a.id, "b": b.id, "service": a.service, "env": env, "since": now - since_s,
            "together": found.together, "sentence": found.sentence, "rows": rows,
        }  # fmt: skip

    async def datasets(_: Request) -> Any:
        return await reader.store.read(_datasets)

    return {"/v1/releases/{id}/comparison": comparison, "/v1/datasets": datasets}


def _rated(said: Counter[str]) -> tuple[int, int]:
    """(down, up or down)."""
    return said["down"], said["down"] + said["up"]


def _datasets(session: Session) -> list[dict[str, Any]]:
    rows = session.exec(select(Dataset).order_by(col(Dataset.created_at).desc()).limit(500)).all()
    return [row.model_dump() for row in rows]


def _release(session: Session, name: str) -> Release:
    row = session.get(Release, name)
    if row is None:
        raise UsageError(f"there is no release {name}", hint="`airboss release list` shows them", code="no_release")
    session.expunge(row)
    return row


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= LONGEST_S:
        raise UsageError(f"last_s is a number of seconds up to {LONGEST_S:.0f}, not {text!r}", code="query")
    return value
