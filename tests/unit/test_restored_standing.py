"""After a restore: what users have is left alone, also where no gateway worker is there yet to be asked."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlmodel import Session

from adapters.local.router import LocalRouter
from adapters.local.spawn import Spawner
from engine.restored.standing import Aliases, Standing
from state.backup import MARKER
from state.models import TrackState
from state.store import Store
from state.words import Unreachable

PLACE = ("chat", "production")


def _route(release: str) -> dict[str, Any]:
    return {"service": "chat", "env": "production",
            "backends": [{"track": "stable", "release_id": release, "weight": 100, "replicas": []}]}  # fmt: skip


def _record(session: Session) -> None:
    session.add(TrackState(service="chat", env="production", target="local", track="stable", release_id="charlm-1",
                           weight=100, since=0.0))  # fmt: skip


@pytest.mark.parametrize("answer", ["nobody is there", "nobody answers"])
def test_a_gateway_that_is_down_is_taken_at_the_table_it_kept(tmp_path: Path, answer: str) -> None:
    (tmp_path / "table.json").write_text(json.dumps({"revision": 9, "routes": [_route("charlm-2")]}))
    (tmp_path / MARKER).write_text("{}")

    async def tables() -> list[dict[str, Any]]:
        if answer == "nobody answers":
            raise Unreachable("no worker")
        return []

    router = SimpleNamespace(gateway=SimpleNamespace(tables=tables, gateway_dir=tmp_path), left_alone={})
    store = Store.open(tmp_path / "state.db")
    try:
        store.write_now(_record)
        standing = Standing(store, cast(LocalRouter, router), cast(Spawner, None), cast(Aliases, None))
        asyncio.run(standing.begin(tmp_path / MARKER))
    finally:
        store.close()
    assert standing.is_open and router.left_alone[PLACE].route == _route("charlm-2")
