"""Where a rollback goes: the releases that were verified here and are still there."""

from __future__ import annotations

from pathlib import Path

from sqlmodel import Session, col, select

from engine.rollouts import records
from engine.rollouts.clusters import is_cluster, ready_there
from engine.rollouts.lifecycle import met_traffic
from state.models import Release, Rollout, Spawn, TrackState
from state.words import TERMINAL_STATES, Conflict, RolloutState, Track


def way_back(session: Session, service: str, env: str) -> str | None:
    """Where a rollback goes: the active rollout's stable, else the last verified, never rejected, other release."""
    active = session.exec(
        select(Rollout).where(Rollout.service == service, Rollout.env == env, col(Rollout.state).in_(records.ACTIVE))
    ).first()
    if active is not None:
        return active.from_release
    live = _live(session, service, env)
    good = (r for r in verified_releases(session, service, env) if r != live)
    return next((r for r in good if not is_gone(session, env, r)), None)


def verified_releases(session: Session, service: str, env: str) -> list[str]:
    """Releases whose newest rollout here that met traffic completed verification, newest first.

    One that was rolled back since is out, here; what happened to it elsewhere, or before it met traffic, does not count,
    and no more does a rollout that another took the place of.
    """
    judged = [s.value for s in TERMINAL_STATES if s is not RolloutState.SUPERSEDED]
    ended = select(Rollout).where(Rollout.service == service, Rollout.env == env, col(Rollout.state).in_(judged))
    seen: set[str] = set()
    found = []
    for row in session.exec(ended.order_by(col(Rollout.finished_at).desc())):
        if row.to_release in seen or not met_traffic(session, row):
            continue
        seen.add(row.to_release)
        if row.state == RolloutState.COMPLETED and session.get(Release, row.to_release) is not None:
            found.append(row.to_release)
    return found


def gone_before(session: Session, service: str, env: str, target: str) -> list[str]:
    """Verified releases newer than `target` that a rollback passes over, because their files are gone."""
    live, found = _live(session, service, env), []
    for release_id in verified_releases(session, service, env):
        if release_id == target:
            break
        if release_id != live and is_gone(session, env, release_id):
            found.append(release_id)
    return found


def is_gone(session: Session, env: str, release_id: str) -> bool:
    """The release can no longer be started: its files are not where they were, and none of its replicas lives."""
    row = session.get(Release, release_id)
    if row is None:
        return True
    if is_cluster(session, env):
        return False  # the image, or a volume there, has the files
    return not Path(row.bundle_path).is_dir() and not ready_replicas(session, env, release_id)


def lost_bundle(session: Session, env: str, release_id: str) -> str:
    """Why the release cannot be started any more, its files being gone; "" while they are there."""
    row = session.get(Release, release_id)
    if row is None or is_cluster(session, env) or Path(row.bundle_path).is_dir():
        return ""
    return f"its bundle is not at {row.bundle_path} any more"


def ready_replicas(session: Session, env: str, release_id: str) -> int:
    """How many replicas of the release answer now."""
    ready = select(Spawn.spawn_id).where(
        Spawn.release_id == release_id, Spawn.env == env, Spawn.kind == "model", Spawn.state == "ready",
        Spawn.desired == "run",
    )  # fmt: skip
    return len(session.exec(ready).all()) + ready_there(session, env, release_id)


def rollback_target(session: Session, service: str, env: str, to: str | None) -> str:
    """The release a rollback returns to. Raises Conflict when there is none, or `to` is not one of them."""
    good = verified_releases(session, service, env)
    there = [r for r in good if not is_gone(session, env, r)]
    if to is not None:
        if to not in good:
            raise Conflict(
                f"{to} has not completed verification in {env}, or was rejected: a rollback does not go there",
                hint=f"possible: {', '.join(there) or 'none'}; `airboss deploy {service} {to} --env {env}` rolls it out",
                code="not_a_way_back",
            )
        if to not in there:
            raise _gone(session, to, [r for r in there if r != to])
        return to
    target = way_back(session, service, env)
    if target is None:
        live = _live(session, service, env)
        lost = [r for r in good if r != live]
        if lost:
            raise _gone(session, lost[0], [])
        raise Conflict(
            f"{service} has no earlier good release in {env} to return to",
            hint="`airboss release list` shows what could be deployed",
            code="no_earlier_release",
        )
    return target


def _gone(session: Session, release_id: str, others: list[str]) -> Conflict:
    row = session.get(Release, release_id)
    where = row.bundle_path if row else "the store"
    back = f"possible: --to {others[0]}" if others else "`airboss release list` shows what could be deployed instead"
    return Conflict(
        f"{release_id} is gone: its bundle is not at {where}, and no replica of it is left",
        hint=f"put the files back (`airboss state restore`, or the registry's copy); {back}",
        code="release_gone",
    )


def _live(session: Session, service: str, env: str) -> str | None:
    stable = session.exec(
        select(TrackState).where(TrackState.service == service, TrackState.env == env, TrackState.track == Track.STABLE)
    ).first()
    return stable.release_id if stable else None
