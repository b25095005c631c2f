"""A spent error budget freezes forward changes of its service, until it has recovered (SRE workbook, "Error Budget Policy").

The freeze is a lease in the store like a person's, so every place that asks for freezes sees it; a rollback never asks. It is
renewed while the budget is spent and ends by itself when nobody looks at budgets any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlmodel import Session, select

from engine.observe.burn import window_name
from engine.observe.slo import SloStatus
from engine.people.freezes import BUDGET, budget_lease
from state import audit
from state.models import Lease

LASTS_S = 900.0
RENEW_S = 300.0
HOLDER = "system:slo"


def spent(statuses: Iterable[SloStatus]) -> dict[str, str]:
    """Lease name → why, for every service whose budget is spent."""
    found = {}
    for status in statuses:
        gone = [one for one in (status.availability, status.latency) if one.is_exhausted]
        if gone:
            said = " and ".join(
                f"the {one.name} budget of {status.service} is spent ({one.budget_left or 0.0:.0%} of {window_name(status.window_s)} left)"
                for one in gone
            )
            found[budget_lease(status.service, status.env)] = said
    return found


def align(session: Session, wanted: Mapping[str, str], now: float) -> None:
    """Begin, renew and end the leases; their beginning and end are audited."""
    there = {row.name: row for row in session.exec(select(Lease).where(Lease.kind == BUDGET))}
    for name, why in wanted.items():
        row = there.get(name)
        if row is None or row.ends_at <= now:
            begun = row or Lease(name=name, kind=BUDGET, holder=HOLDER, reason=why, starts_at=now, ends_at=0.0)
            begun.starts_at, begun.ends_at, begun.reason = now, now + LASTS_S, why
            session.add(begun)
            audit.append(session, actor=HOLDER, action="budget.spent", ref=_ref(name), reason=why, at=now)
        elif row.ends_at - now < LASTS_S - RENEW_S:
            row.ends_at, row.reason = now + LASTS_S, why
            session.add(row)
    for name, row in there.items():
        if name not in wanted and row.ends_at > now:
            row.ends_at = now
            session.add(row)
            audit.append(session, actor=HOLDER, action="budget.recovered", ref=_ref(name), at=now)


def is_due(wanted: Mapping[str, str], there: Mapping[str, float], now: float) -> bool:
    """Whether `align` would change anything; `there` is name → end of the leases in force."""
    return set(wanted) != set(there) or any(end - now < LASTS_S - RENEW_S for end in there.values())


def in_force(session: Session, now: float) -> dict[str, float]:
    """Name → end of the budgets' leases in force."""
    rows = session.exec(select(Lease).where(Lease.kind == BUDGET, Lease.ends_at > now))
    return {row.name: row.ends_at for row in rows}


def _ref(name: str) -> str:
    return f"service:{name.split('/')[1]}"
