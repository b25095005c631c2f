"""What the way back keeps ready (I13): from the first step until `warm_hold` ends, the release one would return to keeps its replicas.

The numbers are derived from rows, so that an engine that is killed finds the same ones. An autoscaler moves what is served;
it takes nothing from what is kept warm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import ColumnElement, and_, or_
from sqlmodel import Session, col, select

from engine.rollouts import records
from engine.rollouts.back.targets import is_gone
from engine.rollouts.wanted import wanted_replicas
from state import clock
from state.config import Config
from state.models import Rollout, TrackState
from state.words import RolloutState

Place = tuple[str, str, str]
"""Service, environment, release."""
REPLACING = ("rolling", "swap")
"""Strategies in which the earlier replicas' place is given away: nothing of them stays."""
_TRAFFIC_IS_THERE = (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL, RolloutState.ROLLING_BACK)


def kept_warm(session: Session, config: Config, now: clock.Moment) -> dict[Place, int]:
    """Replicas to have of each release that one would return to and that no track serves."""
    served = {
        (row.service, row.env, row.release_id) for row in session.exec(select(TrackState).where(TrackState.weight > 0))
    }
    found: dict[Place, int] = {}
    for row in _rows(session, now):
        if row.from_release is None or row.strategy in REPLACING:
            continue
        place = (row.service, row.env, row.from_release)
        is_known = row.service in config.service and row.env in config.environment
        if is_known and place not in served and place not in found and not is_gone(session, row.env, row.from_release):
            wanted = wanted_replicas(session, config, row.service, row.env)
            found[place] = warm_count(row.policy, wanted, has_ended=row.state == RolloutState.COMPLETED)
    return found


def warm_count(policy: Mapping[str, Any], wanted: int, *, has_ended: bool) -> int:
    """Replicas kept: what it had at the first step, and what the load needs now; fewer only if the policy says so."""
    whole = max(int(policy["replicas"]), wanted)
    cheaper = policy.get("warm_replicas")
    return whole if cheaper is None or not has_ended else min(int(cheaper), whole)


def cheap_notes(policy: Mapping[str, Any], stable: str | None, release_id: str, start_s: float) -> tuple[str, ...]:
    """What a policy that keeps less than all of N−1 warm costs on the way back, for the plan of a deployment."""
    if stable is None:
        return ()
    whole, warm = int(policy["replicas"]), warm_count(policy, 0, has_ended=True)
    if float(policy["warm_hold"]) <= 0:
        warm = 0
    if warm >= whole:
        return ()
    lost = f"up to {100 * (whole - warm) / whole:.0f} % of the load is shed for as long if {release_id} does not answer"
    return (
        f"{warm} of {whole} replicas of {stable} stay warm once {release_id} is live: a rollback waits about "
        f"{start_s:.0f} s for the others, and {lost}",
    )


def _rows(session: Session, now: clock.Moment) -> list[Rollout]:
    """Rollouts that have a way back to keep: those under way past their beginning, then those whose hold lasts."""
    active = select(Rollout).where(
        col(Rollout.state).in_(records.ACTIVE), col(Rollout.state).not_in([s.value for s in _TRAFFIC_IS_THERE])
    )
    held = select(Rollout).where(is_warm(now))
    return [*session.exec(active), *session.exec(held.order_by(col(Rollout.finished_at).desc()))]


def is_warm(now: clock.Moment) -> ColumnElement[bool]:
    """Completed, and `warm_hold` is not over: by the monotonic clock in the boot it completed in (I9), else by the wall's."""
    over_at = col(Rollout.state_mono) + (col(Rollout.warm_until) - col(Rollout.state_since))
    return and_(
        col(Rollout.state) == RolloutState.COMPLETED,
        or_(
            and_(col(Rollout.state_boot) == now.boot, over_at > now.mono),
            and_(col(Rollout.state_boot) != now.boot, col(Rollout.warm_until) > now.utc),
        ),
    )
