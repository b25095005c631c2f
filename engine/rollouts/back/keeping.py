"""The rollback plan of every live service kept ready in a file beside the store, so that it needs neither store nor engine.

`airboss rollback --emergency` applies the file's `route`, and starts what `start` says where no replica answers, or does what `cluster` says; `plan` in it is the very plan that the panel and `--dry-run` show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from adapters.local.child import write_json
from adapters.local.runtime import MODULE, owner_of, server_payload
from adapters.ports import ReplicaSetSpec, ReplicaStatus
from engine.rollouts.back.reading import rollback_plan
from engine.rollouts.back.targets import way_back
from engine.rollouts.replica_spec import replica_spec
from engine.rollouts.wanted import wanted_replicas
from state.config import Config
from state.models import TrackState
from state.store import Store
from state.words import Track


@dataclass(slots=True)
class PlanKeeper:
    """Writes `SERVICE@ENV.json` in `directory` whenever the plan is another, and takes away what is no way back any more."""

    store: Store
    config: Config
    directory: Path
    replicas: Callable[[str, str], Sequence[ReplicaStatus]]
    admin_sockets: Callable[[], Sequence[str]]
    in_cluster: Callable[[ReplicaSetSpec], dict[str, Any] | None] = lambda spec: None
    """What the plan must say of the cluster that the set runs in; None for one that runs here."""
    _written: dict[str, Any] = field(default_factory=dict)

    async def keep(self) -> None:
        """Have a file for every live service that has a way back, and none for one that has lost it."""
        for name, plan in (await self.store.read(self._plans)).items():
            if plan is None:
                (self.directory / name).unlink(missing_ok=True)
                self._written.pop(name, None)
            elif self._written.get(name) != plan:
                write_json(self.directory / name, {**plan, "made_at": time.time()})
                self._written[name] = plan

    def _plans(self, session: Session) -> dict[str, dict[str, Any] | None]:
        """File name → plan; None for a service without a way back. One that the store knows nothing of is left alone."""
        found: dict[str, dict[str, Any] | None] = {}
        for track in session.exec(select(TrackState).where(TrackState.track == Track.STABLE)):
            service, env = track.service, track.env
            if service in self.config.service and env in self.config.environment:
                target = way_back(session, service, env)
                found[f"{service}@{env}.json"] = (
                    None if target is None else self._plan(session, service, env, track.target, target)
                )
        return found

    def _plan(self, session: Session, service: str, env: str, where: str, target: str) -> dict[str, Any]:
        ready = [
            [r.spawn_id, r.address]
            for r in self.replicas(service, env)
            if (r.release_id, r.role) == (target, "") and r.is_ready
        ]
        settings = self.config.service[service]
        wanted = wanted_replicas(session, self.config, service, env)
        spec, allow_faults = replica_spec(session, self.config, service, env, target, wanted)
        return {
            "service": service,
            "env": env,
            "to_release": target,
            "cluster": self.in_cluster(spec),
            "plan": rollback_plan(session, self.config, service, env, target).model_dump(mode="json"),
            "route": {
                "service": service, "env": env, "target": where, "rollout_id": "",
                "slow_ms": settings.slo.latency_p95_ms, "deadline_s": settings.deadline,
                "backends": [{"track": "stable", "release_id": target, "weight": 100, "replicas": ready}],
            },
            "admin_sockets": list(self.admin_sockets()),
            "start": [
                {"owner": owner_of(spec, index), "module": MODULE, "digest": spec.digest,
                 "payload": server_payload(spec, self.config.engine.model_threads, allow_faults)}
                for index in (range(wanted) if self.config.environment[env].cluster is None else ())
            ],
        }  # fmt: skip
