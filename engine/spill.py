"""What `rollback --emergency` did while no engine was there, brought into the record."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sqlmodel import Session

from adapters.local.router import set_tracks
from adapters.ports import Backend, Route
from engine.rollouts import planning, records
from engine.rollouts.moves import roll_back
from engine.rollouts.values import Move
from state import audit, ids
from state.config import Config
from state.models import Spawn
from state.store import Store
from state.words import ChildKind, RolloutState, Track

log = logging.getLogger("airboss.engine")


async def import_spill(store: Store, directory: Path, config: Config) -> int:
    """Import every spilled act, oldest first: the tracks become what the gateway has, and the rollout that moved ends.

    A file that cannot be read is kept, renamed to `.unreadable`, and said in the audit log. Returns how many were imported.
    """
    imported = 0
    for path in sorted(directory.glob("*.json")):
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            route = route_of(body)
            started = [_adoptable(one, route) for one in body.get("started") or ()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            os.replace(path, path.with_suffix(".unreadable"))
            said = f"{path.name}: {type(error).__name__}: {error}"
            await store.write(lambda s, m=said: _note(s, m))  # type: ignore[misc]
            continue
        is_new = await store.write(partial(_once, path.name, body, route, started, config), urgent=True)
        os.replace(path, path.with_suffix(".imported"))
        if not is_new:
            continue
        imported += 1
        log.warning("imported the emergency rollback of %s in %s (%s)", route.service, route.env, path.name)
    return imported


def route_of(body: Mapping[str, Any]) -> Route:
    """What the act left in the gateway: everything to one release. Raises KeyError, TypeError on what is no such record."""
    before = body.get("before") or {}
    return Route(
        service=str(body["service"]),
        env=str(body["env"]),
        target=str(before.get("target", "local")),
        rollout_id="",
        backends=(Backend(Track.STABLE, str(body["to_release"]), 100, ()),),
        slow_ms=float(before.get("slow_ms", 0.0)),
        deadline_s=float(before.get("deadline_s", 0.0)),
    )


def _once(
    name: str, body: dict[str, Any], route: Route, started: list[Spawn], config: Config, session: Session
) -> bool:
    """Import the record `name` unless an engine did that was killed before it could rename the file."""
    if ids.get(session, f"spill.{name}"):
        return False
    ids.put(session, f"spill.{name}", str(time.time()))
    _import(session, body, route, config)
    session.add_all(started)
    return True


def _import(session: Session, body: dict[str, Any], route: Route, config: Config) -> None:
    actor = str(body.get("actor", "user:unknown"))
    to = route.backends[0].release_id
    active = planning.active_rollout(session, route.service, route.env)
    if active is not None:
        seen = records.opened(session, active.id)
        if seen is not None:
            said = "rolled back by hand while the engine was down"
            begun = seen.now.state not in (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL)
            move = roll_back(seen.now, said) if begun else Move(RolloutState.CANCELLED, seen.now.step, (), said)
            records.commit_move(session, seen, move, actor=actor, reason="rollback --emergency")
    elif (
        planning.stable_release(session, route.service, route.env) not in (None, to) and route.service in config.service
    ):
        # What was live is rejected and the registry told, as by any other rollback.
        planning.create_rollback(
            session, config, route.service, route.env, to, actor=actor, reason="rollback --emergency"
        )
    set_tracks(session, route)
    audit.append(session, actor=actor, action="rollback.emergency", ref=f"service:{route.service}",
                 reason=str(body.get("reason", "")), detail={"env": route.env, "at": body.get("at"),
                 "to": [b.release_id for b in route.backends]})  # fmt: skip


def _adoptable(one: Mapping[str, Any], route: Route) -> Spawn:
    """A row for a replica that was started without an engine: the supervisor finds it there, and ends no stray."""
    return Spawn(
        spawn_id=str(one["spawn_id"]), kind=ChildKind.MODEL, owner=str(one["owner"]), service=route.service,
        env=route.env, release_id=str(one["release_id"]), digest=str(one["digest"]),
        slot=int(str(one["owner"]).rpartition("/")[2]), state="started", pid=int(one["pid"]),
        address=str(one["address"]), started_at=time.time(),
    )  # fmt: skip


def _note(session: Session, message: str) -> None:
    audit.append(session, actor=records.ENGINE, action="spill.unreadable", ref="engine:engine", reason=message)
