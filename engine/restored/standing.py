"""After a restore: the gateway's traffic is left as it is, service by service, until a person has settled it.

The record of a backup is older than the world. Publishing it would move users to what was true then, so the engine begins
by reading what the gateway serves, and keeps serving that where the record says otherwise.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from adapters.local.left_alone import LEFT_ALONE_KEY, LeftAlone, end_left_alone, left_alone
from adapters.local.router import LocalRouter, kept_table, set_tracks
from adapters.local.spawn import Spawner
from adapters.local.tables import split_of
from adapters.ports import Backend, Route
from engine.restored.differences import Difference, Found, PausedRollout, Place, Recorded, differences
from engine.rollouts import records
from state import audit, ids
from state.digests import MANIFEST_NAME
from state.models import Release, Rollout, TrackState
from state.store import Store
from state.words import AirbossError, Conflict, Lifecycle, RolloutState, Track

log = logging.getLogger("airboss.restored")
Aliases = Callable[[str], Awaitable[dict[str, str]]]


@dataclass(slots=True)
class Standing:
    """What is left alone since a restore, and where the record and the world differ."""

    store: Store
    router: LocalRouter
    spawner: Spawner
    aliases: Aliases

    @property
    def is_open(self) -> bool:
        """Some service's traffic waits for a person."""
        return bool(self.router.left_alone)

    async def begin(self, marker: Path) -> None:
        """Take up a restore that happened while no engine was there, or one that is not settled yet."""
        if marker.exists():
            facts = _facts(marker)
            served = await self._served()
            if served is None:  # no worker is there yet: the first one will serve what the gateway kept
                served = _routes(kept_table(self.router.gateway.gateway_dir))
            paused = await self.store.write(lambda s: self._took_over(s, facts, served))
            marker.unlink()
            log.warning("the store was restored from a backup; paused: %s", ", ".join(paused) or "nothing was moving")
        body = await self.store.read(left_alone)
        self.router.left_alone = {
            (one["route"]["service"], one["route"]["env"]): LeftAlone(one["recorded"], one["route"])
            for one in body.values()
        }

    def _took_over(self, session: Session, facts: dict[str, Any], served: dict[Place, dict[str, Any]]) -> list[str]:
        recorded = _traffic(session)
        kept = {
            f"{service}@{env}": {"recorded": recorded.get((service, env), {}), "route": route}
            for (service, env), route in served.items()
            if split_of(route) != recorded.get((service, env), {})
        }
        ids.put(session, LEFT_ALONE_KEY, json.dumps(kept))
        audit.append(session, actor=str(facts.get("actor", records.ENGINE)), action="state.restore", ref="engine:engine",
                     reason=str(facts.get("reason", "")),
                     detail={"from": facts.get("from"), "kept": facts.get("kept"), "left_alone": sorted(kept)})  # fmt: skip
        return records.pause_restored(session)

    async def differences(self) -> tuple[Difference, ...]:
        """Every difference there is now, whether a store was restored or not."""
        recorded = await self.store.read(_recorded)
        served = await self._served()
        found: dict[str, str | None] = {}
        for model in recorded.champions:
            try:
                found[model] = (await self.aliases(model)).get("champion")
            except AirbossError as error:
                log.info("the registry does not say what %s's champion is: %s", model, error)
        traffic = None if served is None else {place: split_of(route) for place, route in served.items()}
        living = Counter(
            (str(p["service"]), str(p["env"]), str(p["release_id"]))
            for child in self.spawner.living().values()
            if child.spec.kind == "model" and (p := child.spec.payload)
        )
        return differences(recorded, Found(traffic, living, found))

    async def adopt(self, service: str, env: str, actor: str, reason: str) -> str:
        """Record what the gateway serves. Raises Conflict when it serves a release of which there is no record."""
        served = await self._served()
        route = (served or {}).get((service, env))
        if route is None:
            raise Conflict(
                f"the gateway serves no {service} in {env}, or does not answer", hint="`airboss state diff`", code="no_route"
            )  # fmt: skip

        def change(session: Session) -> str:
            for release in split_of(route):
                if session.get(Release, release) is None:
                    raise Conflict(
                        f"{service} in {env} is served by {release}, which is in no record",
                        hint=f"`airboss state enforce {service} --env {env}` serves what is recorded",
                        code="unknown_release",
                    )
            set_tracks(session, _as_route(route))
            return self._settled(session, "state.adopt", service, env, actor, reason)

        said = await self.store.write(change)
        self.router.left_alone.pop((service, env), None)
        await self.router.republish()
        return said

    async def enforce(self, service: str, env: str, actor: str, reason: str) -> str:
        """Serve what is recorded."""
        said = await self.store.write(lambda s: self._settled(s, "state.enforce", service, env, actor, reason))
        self.router.left_alone.pop((service, env), None)
        await self.router.publish()
        return said

    def _settled(self, session: Session, verb: str, service: str, env: str, actor: str, reason: str) -> str:
        left = end_left_alone(session, service, env)
        traffic = _traffic(session).get((service, env), {})
        audit.append(session, actor=actor, action=verb, ref=f"service:{service}", reason=reason,
                     detail={"env": env, "traffic": traffic, "left": left})  # fmt: skip
        return f"{service} in {env}: the record and the gateway have {traffic or 'nothing'}"

    async def _served(self) -> dict[Place, dict[str, Any]] | None:
        """The route of every service as the gateway has it; None when no worker answers."""
        try:
            tables = await self.router.gateway.tables()
        except AirbossError:
            return None
        if not tables:
            return None
        return _routes(max(tables, key=lambda table: int(table.get("revision", 0))))


def _routes(table: Mapping[str, Any]) -> dict[Place, dict[str, Any]]:
    return {(route["service"], route["env"]): dict(route) for route in table.get("routes", ())}


def _facts(marker: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(marker.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _as_route(route: dict[str, Any]) -> Route:
    return Route(
        service=route["service"], env=route["env"], target=str(route.get("target", "local")),
        rollout_id=str(route.get("rollout_id", "")), slow_ms=float(route.get("slow_ms", 0.0)),
        deadline_s=float(route.get("deadline_s", 0.0)),
        backends=tuple(Backend(Track(b["track"]), b["release_id"], int(b["weight"]), ()) for b in route["backends"]),
    )  # fmt: skip


def _traffic(session: Session) -> dict[Place, dict[str, int]]:
    found: dict[Place, dict[str, int]] = {}
    for row in session.exec(select(TrackState).where(col(TrackState.weight) > 0)):
        found.setdefault((row.service, row.env), {})[row.release_id] = row.weight
    return found


def _recorded(session: Session) -> Recorded:
    traffic = _traffic(session)
    rows = session.exec(select(Release)).all()
    serving = {release for split in traffic.values() for release in split}
    paused = session.exec(select(Rollout).where(Rollout.state == RolloutState.PAUSED))
    return Recorded(
        traffic=traffic,
        releases=frozenset(row.id for row in rows),
        broken_bundles={
            row.id: f"{row.bundle_path} is not there"
            for row in rows
            if row.id in serving and not (Path(row.bundle_path) / MANIFEST_NAME).is_file()
        },
        paused=tuple(PausedRollout(r.id, r.service, r.env, r.pause_reason, r.resume_state) for r in paused),
        champions={
            row.model_name: row.model_version
            for row in rows
            if row.lifecycle == Lifecycle.PRODUCTION and row.model_version and row.id in serving
        },
    )
