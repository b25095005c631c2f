"""Capacity advice as the API answers it."""

from __future__ import annotations

from dataclasses import asdict

from sqlmodel import Session, col, select

from engine.api.schemas import CapacityView
from engine.autoscaling.capacity import TARGET, advise
from engine.autoscaling.watcher import LoadWatcher
from engine.rollouts.wanted import wanted_replicas
from state.config import Config
from state.models import TrackState
from state.words import UsageError

LONGEST_S = 3600.0


def capacity_views(
    session: Session, config: Config, watcher: LoadWatcher, service: str, env: str, window_s: float
) -> tuple[CapacityView, ...]:
    """The service in each environment where it is served, or in `env`. Raises UsageError when there is no such service."""
    if service not in config.service:
        raise UsageError(
            f"there is no service {service!r}", hint=f"services: {', '.join(config.service)}", code="no_service"
        )
    query = select(TrackState.env).where(TrackState.service == service, col(TrackState.weight) > 0).distinct()
    served = sorted(e for e in session.exec(query) if e in config.environment and env in ("", e))
    return tuple(_view(session, config, watcher, service, e, min(window_s, LONGEST_S)) for e in served)


def _view(
    session: Session, config: Config, watcher: LoadWatcher, service: str, env: str, window_s: float
) -> CapacityView:
    autoscale = config.service[service].autoscale
    target = autoscale.target_utilisation if autoscale else TARGET
    found = watcher.measured(service, env, window_s)
    advice = advise(found, target) if found else None
    return CapacityView(
        service=service,
        env=env,
        window_s=found.window_s if found else 0.0,
        replicas=found.replicas if found else 0,
        concurrency=found.concurrency if found else 0,
        requests=found.requests if found else 0,
        wanted=wanted_replicas(session, config, service, env),
        autoscaled=autoscale is not None,
        target=target,
        **(asdict(advice) if advice else {}),
    )
