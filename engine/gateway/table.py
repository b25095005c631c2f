"""The routing table and the choice it makes: values in, values out; no clock, no I/O, no globals.

A request takes one table when it is admitted and uses it to its end, retries included. Everything a choice needs
besides the table (who is healthy, who is busy, the point on the scale) is passed in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from adapters.ports import Backend, Route
from engine.gateway.access.problems import access_problems
from engine.gateway.quality.checks import quality_problems
from engine.gateway.routing.problems import loop_problems, routing_problems
from state.words import Track, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,61}")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ADDRESS = re.compile(r"unix:/.+|https?://[^/\s]+/?")
_STABLE = Track.STABLE.value
RESERVED_ENVS = frozenset({"v1", "generate", "healthz", "feedback"})
"""Names that would make /{env}/{service}/… mean two things."""


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """Every route of this gateway at one revision. Revisions only rise."""

    revision: int
    issued_at: float
    default_env: str
    routes: tuple[Route, ...]
    _by_name: dict[tuple[str, str], Route] = field(init=False, repr=False, compare=False)
    _services: dict[str, list[str]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {(route.service, route.env): route for route in self.routes})
        services = {env: sorted(r.service for r in self.routes if r.env == env) for env in self.envs()}
        object.__setattr__(self, "_services", services)

    def route(self, service: str, env: str) -> Route | None:
        """The route of `service` in `env`, or None."""
        return self._by_name.get((service, env))

    def envs(self) -> list[str]:
        """Environments that have a route."""
        return sorted({route.env for route in self.routes})

    def services(self, env: str) -> list[str]:
        """Services that have a route in `env`."""
        return self._services.get(env, [])

    def replicas(self) -> dict[str, str]:
        """spawn_id → address of every replica in the table."""
        return {
            spawn_id: address
            for route in self.routes
            for backend in route.backends
            for spawn_id, address in backend.replicas
        }

    def to_json(self) -> dict[str, object]:
        """The table as it goes over the wire and into the file."""
        return {
            "revision": self.revision,
            "issued_at": self.issued_at,
            "default_env": self.default_env,
            "routes": [_route_json(route) for route in self.routes],
        }


def _route_json(route: Route) -> dict[str, object]:
    more: dict[str, object] = {"routing": asdict(route.routing)} if route.routing is not None else {}
    return {
        **more,
        **({"access": asdict(route.access)} if route.access is not None else {}),
        **({"measures": asdict(route.measures)} if route.measures is not None else {}),
        "service": route.service,
        "env": route.env,
        "target": route.target,
        "rollout_id": route.rollout_id,
        "slow_ms": route.slow_ms,
        "deadline_s": route.deadline_s,
        "backends": [
            {
                "track": backend.track,
                "release_id": backend.release_id,
                "weight": backend.weight,
                "replicas": [list(replica) for replica in backend.replicas],
            }
            for backend in route.backends
        ],
    }


_TABLE = TypeAdapter(RoutingTable)


def parse_table(body: str | bytes) -> RoutingTable:
    """The table that JSON `body` states, checked. Fields it does not know are left aside (a newer engine's).

    Raises UsageError that names every field in question.
    """
    try:
        table = _TABLE.validate_json(body, strict=True)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, item['loc'])) or 'the body'}: {item['msg']}" for item in error.errors()[:8]]
        raise UsageError(f"not a routing table: {'; '.join(found)}", code="bad_table") from error
    if problems := list(_problems(table)):
        raise UsageError(f"routing table {table.revision} is refused: {'; '.join(problems)}", code="bad_table")
    return table


def table_text(table: RoutingTable) -> str:
    """The table as JSON text."""
    return json.dumps(table.to_json(), sort_keys=True)


def _problems(table: RoutingTable) -> Iterator[str]:
    """Everything that makes the table one that must not be served."""
    if table.revision < 1:
        yield f"revision {table.revision} must be 1 or more"
    if len({(route.service, route.env) for route in table.routes}) != len(table.routes):
        yield "a service has two routes in one environment"
    addresses: dict[str, str] = {}
    for route in table.routes:
        where = f"{route.service} in {route.env}"
        yield from (f"{where}: {what}" for what in _route_problems(route))
        for spawn_id, address in (replica for backend in route.backends for replica in backend.replicas):
            if addresses.setdefault(spawn_id, address) != address:
                yield f"{where}: replica {spawn_id} has two addresses"
    yield from loop_problems(table.routes)


def _route_problems(route: Route) -> Iterator[str]:
    if route.routing is not None:
        yield from routing_problems(route.routing)
    if not _NAME.fullmatch(route.service):
        yield f"{route.service!r} is not a service's name"
    if not _NAME.fullmatch(route.env) or route.env in RESERVED_ENVS:
        yield f"{route.env!r} is not an environment's name"
    if not 0 < route.deadline_s < 86_400:
        yield f"deadline_s {route.deadline_s} must lie between 0 and a day"
    if not 0 < route.slow_ms < 86_400_000:
        yield f"slow_ms {route.slow_ms} must lie between 0 and a day"
    if route.access is not None:
        yield from access_problems(route.access)
    if route.measures is not None and route.measures.quality is not None:
        yield from quality_problems(route.measures.quality)
    tracks = [backend.track for backend in route.backends]
    if unknown := sorted(set(tracks) - set(Track)):
        yield f"unknown track {', '.join(unknown)}"
    if len(set(tracks)) != len(tracks):
        yield "a track appears twice"
    if Track.STABLE not in tracks:
        yield "there is no stable track"
    if any(not 0 <= backend.weight <= 100 for backend in route.backends):
        yield "a weight is not within 0 and 100"
    if (total := sum(backend.weight for backend in route.backends)) != 100:
        yield f"weights sum to {total}, not 100"
    for backend in route.backends:
        if backend.track == Track.SHADOW and backend.weight:
            yield "shadow must have weight 0: its answers reach no user"
        if not _RELEASE.fullmatch(backend.release_id):
            yield f"{backend.release_id!r} is not a release's id"
        if bad := [address for _, address in backend.replicas if not _is_address(address)]:
            yield f"{bad[0]!r} is not unix:/path or http://host:port"


def _is_address(address: str) -> bool:
    """A connection can be tried to it: what no resolver takes is found now, not by the first request."""
    if not _ADDRESS.fullmatch(address):
        return False
    if address.startswith("unix:"):
        return True
    try:
        url = urlsplit(address)
        return bool(url.port != 0 and url.hostname and url.hostname.encode("idna"))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Choice:
    """Where an attempt goes."""

    backend: Backend
    spawn_id: str
    address: str


def affinity_point(key: str, route: Route) -> float:
    """Where on the scale [0, 100) a session always falls on this route; not the same place on every route."""
    digest = hashlib.blake2b(f"{route.service}\0{route.env}\0{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64 * 100


def backend_at(route: Route, point: float) -> Backend:
    """The backend whose share of the scale [0, 100) holds `point`, by the configured weights.

    Stable lies last, so a growing canary only ever takes sessions from stable, and never sends one back.
    """
    mark = 0.0
    others = [backend for backend in route.backends if backend.weight and backend.track != _STABLE]
    if len(others) > 1:
        others.sort(key=lambda backend: backend.track)
    for backend in others:
        mark += backend.weight
        if point < mark:
            return backend
    return next(backend for backend in route.backends if backend.track == _STABLE)


def pick(
    route: Route,
    first: Backend,
    healthy: Container[str],
    inflight: Mapping[str, int],
    turn: int,
    exclude: Container[str] = (),
) -> Choice | None:
    """A healthy replica of `first`; else of stable, whatever its weight; else of the heaviest other track.

    A track of weight 0 other than stable is never a refuge: it may be the release that was just rolled back.
    `exclude` holds the replicas that already failed this request. None when nothing is left.
    """
    if choice := pick_replica(first, healthy, inflight, turn, exclude):
        return choice
    others = [b for b in route.backends if b.track == Track.STABLE or (b.weight > 0 and b.track != Track.SHADOW)]
    others.sort(key=lambda b: (b.track != Track.STABLE, -b.weight, b.track))
    for backend in others:
        if choice := pick_replica(backend, healthy, inflight, turn, exclude):
            return choice
    return None


def pick_replica(
    backend: Backend, healthy: Container[str], inflight: Mapping[str, int], turn: int, exclude: Container[str] = ()
) -> Choice | None:
    """The healthy replica of `backend` with the least in flight; among equals `turn` goes round."""
    if len(backend.replicas) == 1:
        ((spawn_id, address),) = backend.replicas
        return Choice(backend, spawn_id, address) if spawn_id in healthy and spawn_id not in exclude else None
    able = [replica for replica in backend.replicas if replica[0] in healthy and replica[0] not in exclude]
    if not able:
        return None
    least = min(inflight.get(spawn_id, 0) for spawn_id, _ in able)
    equals = [replica for replica in able if inflight.get(replica[0], 0) == least]
    spawn_id, address = equals[turn % len(equals)]
    return Choice(backend, spawn_id, address)
