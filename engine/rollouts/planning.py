"""Making a rollout: what is checked first, what it will change, and its first row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from engine.people.freezes import demand_thawed, in_force
from engine.people.glass import break_for_deploy
from engine.rollouts import records
from engine.rollouts.frozen import frozen_policy
from engine.rollouts.wanted import may_exceed_file, wanted_replicas
from state import audit, clock, ids
from state.config import Config
from state.models import Release, Rollout, TrackState
from state.policy_config import Policy
from state.words import Conflict, Denied, RolloutState, Strategy, Track, UsageError


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for with `deploy`."""

    service: str
    env: str
    release_id: str
    steps: tuple[int | str, ...] = ()
    strategy: str = ""
    force: bool = False
    again: bool = False
    break_glass: bool = False
    past: tuple[str, ...] = ()
    """The freezes that the broken glass goes past, as sentences."""
    """A retry: a rejection does not stand in its way; a freeze or a fault still does."""
    hotfix: bool = False
    """Stable is bad itself: all traffic at once, judged alone."""
    supersedes: str = ""
    """The active rollout that is given up for it."""


def check_names(config: Config, service: str, env: str) -> None:
    """Raise UsageError when the workspace has no such service or environment."""
    if service not in config.service:
        raise UsageError(
            f"there is no service {service!r}",
            hint=f"airboss.toml has: {', '.join(config.service) or 'none'}",
            code="no_service",
        )
    if env not in config.environment:
        raise UsageError(
            f"there is no environment {env!r}",
            hint=f"airboss.toml has: {', '.join(config.environment) or 'none'}",
            code="no_env",
        )


def policy_for(config: Config, wish: Wish) -> dict[str, Any]:
    """The policy the rollout keeps, whatever becomes of the file. Raises UsageError for what cannot be played."""
    return frozen_policy(config, wish.service, wish.env, wish.strategy, wish.steps)


def check_deploy(session: Session, config: Config, wish: Wish) -> str | None:
    """Everything that forbids the deployment, as an error; returns the release that is stable there now."""
    check_names(config, wish.service, wish.env)
    release = session.get(Release, wish.release_id)
    if release is None:
        raise UsageError(
            f"there is no release {wish.release_id!r}", hint="`airboss release list` shows them", code="no_release"
        )
    if release.service != wish.service:
        raise UsageError(f"{release.id} is a release of {release.service}, not of {wish.service}", code="other_service")
    if release.serving.get("fault") and not config.environment[wish.env].allow_faults and not wish.force:
        raise Denied(
            f"{release.id} is made to misbehave (its serving config has a fault), and {wish.env} does not allow that",
            hint=f"environment.{wish.env}.allow_faults = true, or --force",
            code="fault",
        )
    if release.rejected_reason and not (wish.force or wish.again):
        raise Denied(
            f"{release.id} was rejected: {release.rejected_reason}",
            hint="--force rolls it out all the same",
            code="rejected",
        )
    if not wish.break_glass:
        demand_thawed(in_force(session, config, wish.env, wish.service, time.time()), "deploy")
    active = active_rollout(session, wish.service, wish.env)
    if active is not None and active.id == wish.supersedes:
        if active.to_release == wish.release_id:
            raise Conflict(f"{active.id} is rolling {wish.release_id} out already", code="active_rollout")
        return active.from_release
    if active is not None or wish.supersedes:
        said = (
            f"{active.id} is moving {wish.service} in {wish.env} already ({active.state})"
            if active
            else (f"{wish.supersedes} is not moving {wish.service} in {wish.env}: there is nothing to supersede")
        )
        raise Conflict(
            said,
            hint=f"let it end, or `--supersede {active.id}`: it goes back to {active.from_release} first, then "
            f"{wish.release_id} begins (--dry-run shows it)"
            if active
            else "leave --supersede out",
            code="active_rollout",
        )
    return stable_release(session, wish.service, wish.env)


def stable_release(session: Session, service: str, env: str) -> str | None:
    """The release on the stable track, None when nothing is live."""
    query = select(TrackState).where(
        TrackState.service == service, TrackState.env == env, TrackState.track == Track.STABLE
    )
    row = session.exec(query).first()
    return row.release_id if row else None


def create_rollout(
    session: Session, wish: Wish, stable: str | None, policy: Mapping[str, Any], *, actor: str, reason: str
) -> str:
    """Write the rollout's first row; the controller takes it from there. Returns its id."""
    made = _insert(session, wish.service, wish.env, stable, wish.release_id, policy, RolloutState.PLANNED,
                   "planned", actor, reason)  # fmt: skip
    if wish.break_glass:
        break_for_deploy(session, session.get_one(Rollout, made), actor, reason, wish.past)
    return made


def create_rollback(
    session: Session, config: Config, service: str, env: str, target: str, *, actor: str, reason: str
) -> str:
    """Write a rollout that is on its way back from the live release to `target`. Returns its id."""
    live = stable_release(session, service, env)
    if live is None:
        raise Conflict(f"nothing of {service} is live in {env}", code="nothing_live")
    if live == target:
        raise Conflict(f"{target} is live in {env} already", code="already_live")
    active = active_rollout(session, service, env)
    if active is not None:
        raise Conflict(f"{active.id} is moving {service} in {env} already ({active.state})", code="active_rollout")
    policy = rollback_policy(session, config, service, env, live)
    said = f"rolled back by {actor}" + (f" ({reason})" if reason else "")
    return _insert(session, service, env, target, live, policy, RolloutState.ROLLING_BACK, said, actor, reason)


def rollback_policy(session: Session, config: Config, service: str, env: str, live: str) -> dict[str, Any]:
    """What a rollback keeps: the policy `live` came by. Today's file is not asked: nothing in it may forbid the way back."""
    query = select(Rollout).where(Rollout.service == service, Rollout.env == env, Rollout.to_release == live)
    came = session.exec(query.order_by(col(Rollout.created_at).desc())).first()
    settings = config.service[service]
    plain = {
        "strategy": Strategy.CANARY.value,
        "steps": [{"kind": "weight", "value": 100.0}],
        "judge": Policy().judge.model_dump(mode="json"),
        "slo": settings.slo.model_dump(mode="json"),
        "quality": settings.quality.model_dump(mode="json"),
        "cost": settings.cost.model_dump(mode="json"),
        "approvals": 0,
        "warm_hold": Policy().warm_hold,
        "prepare_timeout": Policy().prepare_timeout,
        "auto_promote": True,
        "replicas": settings.replicas,
    }
    kept = {**plain, **(came.policy if came else {}), "is_rollback": True}
    if may_exceed_file(session, config, service, env):
        kept["replicas"] = wanted_replicas(session, config, service, env)
    return kept


def active_rollout(session: Session, service: str, env: str) -> Rollout | None:
    """The one rollout that is moving the service there."""
    query = select(Rollout).where(Rollout.service == service, Rollout.env == env)
    return session.exec(query.where(col(Rollout.state).in_(records.ACTIVE))).first()


def _insert(
    session: Session,
    service: str,
    env: str,
    from_release: str | None,
    to_release: str,
    policy: Mapping[str, Any],
    state: RolloutState,
    message: str,
    actor: str,
    reason: str,
) -> str:
    rollout_id, moment = ids.next_id(session, "ro"), clock.now()
    session.add(
        Rollout(
            id=rollout_id, service=service, env=env, target="local", strategy=policy["strategy"],
            from_release=from_release, to_release=to_release, state=state.value, policy=dict(policy), message=message,
            reason=reason, created_by=actor, created_at=moment.utc, state_since=moment.utc, state_boot=moment.boot,
            state_mono=moment.mono,
        )
    )  # fmt: skip
    session.flush()
    audit.append(
        session, actor=actor, action=f"rollout.{state.value}", ref=f"rollout:{rollout_id}", reason=reason,
        detail={"service": service, "env": env, "from_release": from_release, "to_release": to_release,
                "steps": policy["steps"]},
    )  # fmt: skip
    return rollout_id
