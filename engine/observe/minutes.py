"""The store's minutes as tallies: the same sums as `slo.tally`, made where the rows are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import case, func
from sqlmodel import Session, col, select

from engine.observe.burn import WINDOWS
from engine.observe.slo import Minute, SloStatus, Tally, failing_minute, slo_status, window_minutes
from state.config import Slo
from state.models import SliMinute


@dataclass(frozen=True, slots=True)
class Promise:
    """A service's objectives in one environment."""

    service: str
    env: str
    slo: Slo


def read_status(session: Session, promise: Promise, now: float) -> SloStatus:
    """How the promise stands at `now`."""
    service, env, slo = promise.service, promise.env, promise.slo
    mine = (SliMinute.service == service, SliMinute.env == env)
    first_minute = session.exec(select(func.min(SliMinute.minute)).where(*mine)).one()
    window_s = slo.window_d * 86_400
    windows = {*WINDOWS, window_s}
    bounds = {w: window_minutes(w, first_minute, now) for w in windows}
    failing = session.exec(
        select(SliMinute).where(
            *mine, col(SliMinute.probe_errors) > 0, col(SliMinute.minute) >= min(first for first, _ in bounds.values())
        )
    ).all()
    current = session.get(SliMinute, (service, env, int(now // 60)))
    return slo_status(
        service,
        env,
        error_limit=slo.error_limit,
        slow_limit=slo.slow_limit,
        window_s=window_s,
        tallies={w: _tally(session, service, env, *bounds[w], failing, now) for w in windows},
        first_minute=first_minute,
        current_is_covered=current is not None and current.requests + current.probes > 0,
        now=now,
    )


def _tally(
    session: Session, service: str, env: str, first: int, last: int, failing: Iterable[SliMinute], now: float
) -> Tally:
    requests, probes = col(SliMinute.requests), col(SliMinute.probes)
    is_probed = (requests == 0) & (probes > 0)
    sums = session.execute(
        select(
            func.coalesce(func.sum(case((requests > 0, 1), else_=0)), 0),
            func.coalesce(func.sum(requests), 0),
            func.coalesce(func.sum(SliMinute.errors), 0),
            func.coalesce(func.sum(SliMinute.slow), 0),
            func.coalesce(func.sum(case((is_probed, 1), else_=0)), 0),
            func.coalesce(func.sum(case((is_probed, probes), else_=0)), 0),
            func.coalesce(func.sum(case((is_probed, col(SliMinute.probe_errors)), else_=0)), 0),
        )  # type: ignore[call-overload]
        .where(SliMinute.service == service, SliMinute.env == env)
        .where(col(SliMinute.minute).between(first, last))
    ).one()
    counted, asked, errors, slow, probed, probed_with, probe_errors = (int(value) for value in sums)
    return Tally(
        counted_minutes=counted,
        requests=asked,
        errors=errors,
        slow=slow,
        probed_minutes=probed,
        probes=probed_with,
        probe_errors=probe_errors,
        failing=tuple(
            failing_minute(Minute(m.minute, m.requests, probes=m.probes, probe_errors=m.probe_errors), now)
            for m in failing
            if first <= m.minute <= last
        ),
    )
