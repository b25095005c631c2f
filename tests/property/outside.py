"""What a killed engine leaves behind, as values: time, gateway workers, replicas, counts, a registry. It dies at a point."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from machine_things import Crash, Happened, Routed, Scaled

from adapters.ports import ArmCounts, ArmEvidence, Interval, ReplicaSetSpec, ReplicaStatus

MODULES_WITH_CLOCKS = ("engine.rollouts.journal", "engine.rollouts.records", "engine.rollouts.planning", "state.clock")


class VirtualTime:
    """The `time` of the modules that the machine's clocks come from."""

    def __init__(self) -> None:
        self.utc, self.mono = 1_790_000_000.0, 1000.0

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand in for `time` in the modules that ask it for rollouts."""
        stand_in = types.SimpleNamespace(time=lambda: self.utc, monotonic=lambda: self.mono)
        for name in MODULES_WITH_CLOCKS:
            patch.setattr(f"{name}.time", stand_in)

    def passes(self, seconds: float) -> None:
        """Both clocks go on."""
        self.utc, self.mono = self.utc + seconds, self.mono + seconds


@dataclass
class Outside:
    """What a killed engine leaves behind: gateway workers, replicas, the registry; and the points it dies at."""

    gateway_dir: Path
    time: VirtualTime
    tables: list[dict[str, Any]] = field(default_factory=lambda: [{}, {}])
    specs: dict[str, ReplicaSetSpec] = field(default_factory=dict)
    aliases_: dict[str, str] = field(default_factory=dict)
    stages: dict[str, str] = field(default_factory=dict)
    happened: list[Happened] = field(default_factory=list)
    crash_at: int = 0
    points: list[str] = field(default_factory=list)
    meant: dict[str, int] = field(default_factory=dict)

    def point(self, name: str) -> None:
        """The engine has come to `name`; it ends here if this is the one."""
        self.points.append(name)
        if len(self.points) == self.crash_at:
            raise Crash(name)

    # The gateway, as the local router sees it.

    async def put(self, table: Mapping[str, Any]) -> None:
        """Give every worker the table."""
        for index in range(len(self.tables)):
            self.point(f"before worker {index}'s table")
            before, after = weights_of(self.tables[index]), weights_of(table)
            self.happened.append(Routed(before, after, dict(self.meant), frozenset(self.running())))
            self.tables[index] = dict(table)
            self.point(f"after worker {index}'s table")
        self.meant = weights_of(table)

    async def tables_(self) -> list[dict[str, Any]]:
        """What every worker has."""
        return [dict(table) for table in self.tables]

    # The runtime.

    def running(self) -> list[str]:
        """Releases with replicas."""
        return [name for name, spec in self.specs.items() if spec.replicas]

    async def ensure(self, spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        """Have the replicas; they are ready at once."""
        before = self.specs[spec.release_id].replicas if spec.release_id in self.specs else 0
        if before != spec.replicas:
            self.point(f"before {spec.replicas} of {spec.release_id}")
            weights = tuple(weights_of(table) for table in self.tables)
            self.happened.append(Scaled(spec.release_id, before, spec.replicas, weights, True))
        self.specs[spec.release_id] = spec
        if before != spec.replicas:
            self.point(f"after {spec.replicas} of {spec.release_id}")

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        """Every replica there."""
        return [
            ReplicaStatus(f"{name}-{n}", service, env, name, spec.digest, n, f"unix:/{name}", 1, True, True, 0)
            for name, spec in self.specs.items()
            for n in range(spec.replicas)
        ]

    async def probe(self, spec: ReplicaSetSpec) -> str | None:
        """Every replica generates its token."""
        return None

    def crash_loop(self, service: str, env: str, release_id: str) -> str | None:
        """None of them dies."""
        return None

    # The metrics source: a clean canary, whatever is asked.

    async def arms(self, service: str, env: str, rollout_id: str, table_revision: int, since: float) -> ArmEvidence:
        """Enough of good requests on both arms."""
        now = self.time.utc
        counts = Interval(now - 1.0, now, ArmCounts(4000), ArmCounts(2000))
        return ArmEvidence((counts,) if now > since else (), 0.0, 0.0)

    # The registry.

    def aliases(self, model_name: str) -> Mapping[str, str]:
        """alias → version."""
        return dict(self.aliases_)

    def set_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.point(f"before the alias {alias}")
        self.aliases_[alias] = version
        self.point(f"after the alias {alias}")

    def drop_alias(self, model_name: str, alias: str) -> None:
        """Take an alias away."""
        self.aliases_.pop(alias, None)

    def tag(self, model_name: str, version: str, tags: Mapping[str, str]) -> None:
        """Say a version's stage."""
        self.point(f"before a tag of version {version}")
        self.stages[version] = tags.get("airboss.stage", self.stages.get(version, ""))

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True)
class Gateway:
    """The two calls the router makes, under the names it makes them."""

    outside: Outside
    gateway_dir: Path

    async def put(self, table: Mapping[str, Any]) -> None:
        """As the gateway has it."""
        await self.outside.put(table)

    async def tables(self) -> list[dict[str, Any]]:
        """As the gateway has it."""
        return await self.outside.tables_()


def weights_of(table: Mapping[str, Any]) -> dict[str, int]:
    """release → weight in a gateway's table."""
    return {b["release_id"]: b["weight"] for r in table.get("routes", ()) for b in r["backends"] if b["weight"]}
