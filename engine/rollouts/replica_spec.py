"""What a replica of a release is started with: its bundle, its digest, its settings."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import Session

from adapters.ports import ReplicaSetSpec
from engine.rollouts.traits import settings_of
from state.config import Config
from state.models import Release
from state.words import OperationFailed


def replica_spec(
    session: Session, config: Config, service: str, env: str, release_id: str, replicas: int, role: str = ""
) -> tuple[ReplicaSetSpec, bool]:
    """The set of `replicas` of the release, and whether faults may be injected into it. Raises OperationFailed."""
    row = session.get(Release, release_id)
    if row is None:
        raise OperationFailed(f"there is no release {release_id}", hint="`airboss release list` shows them")
    serving = settings_of(session, config, service, env, release_id)
    spec = ReplicaSetSpec(service, env, row.id, row.digest, Path(row.bundle_path), replicas, serving, role)
    return spec, config.environment[env].allow_faults or bool(row.serving.get("fault_forced"))
