"""What keeps an environment, or a service in it, from moving forward: people's freezes, airboss.toml's windows, spent budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlmodel import Session, select

from engine.people.windows import occurrence
from state.config import Config
from state.freeze_config import FreezeWindow
from state.models import Lease
from state.words import Denied

BUDGET = "budget"
"""A lease's kind: begun and ended by the service's own error budget."""


def budget_lease(service: str, env: str) -> str:
    """The name of the lease of a service's spent budget."""
    return f"{BUDGET}/{service}/{env}"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze or a hold: where, who, why, from when to when."""

    kind: str
    """`freeze` or `hold`, begun by a person; `window`, of airboss.toml; `budget`, spent."""
    name: str
    env: str
    by: str
    reason: str
    since: float
    until: float
    service: str = ""
    """The one it concerns; "" for all in the environment."""

    def holds(self, at: float) -> bool:
        """Whether it is in force."""
        return self.since <= at < self.until

    @property
    def sentence(self) -> str:
        """Who, until when, why."""
        if self.kind == BUDGET:
            return f"{self.reason}, so {self.service} in {self.env} takes no forward change until it recovers"
        until = datetime.fromtimestamp(self.until, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
        return f"{self.env} is frozen until {until} by {self.by}: {self.reason or 'no reason was given'}"


def planned(session: Session, config: Config, at: float) -> tuple[Freeze, ...]:
    """Freezes, holds and windows, those in force and the next of each window; the soonest end first."""
    leases = session.exec(select(Lease).where(Lease.ends_at > at))
    found = [_of_lease(row) for row in leases]
    for name, window in config.freeze.items():
        span = occurrence(window, at)
        if span is not None:
            found += [
                Freeze("window", name, env, f"[freeze.{name}]", window.reason, span.since, span.until)
                for env in places_of(window, config)
            ]
    return tuple(sorted(found, key=lambda one: (one.until, one.env, one.name)))


def _of_lease(row: Lease) -> Freeze:
    env, service = row.name.partition("/")[2], ""
    if row.kind == BUDGET:
        _, service, env = row.name.split("/")
    return Freeze(row.kind, row.name, env, row.holder, row.reason, row.starts_at, row.ends_at, service)


def places_of(window: FreezeWindow, config: Config) -> tuple[str, ...]:
    """The environments that a window is for."""
    return window.environments or tuple(name for name, env in config.environment.items() if env.protected)


def in_force(session: Session, config: Config, env: str, service: str, at: float) -> tuple[Freeze, ...]:
    """What freezes `service` in `env` at `at`, the latest end first."""
    frozen = [
        one for one in planned(session, config, at)
        if one.kind != "hold" and one.env in (env, "*") and one.service in ("", service) and one.holds(at)
    ]  # fmt: skip
    return tuple(sorted(frozen, key=lambda one: -one.until))


def demand_thawed(frozen: tuple[Freeze, ...], verb: str) -> None:
    """Raise Denied, saying who, until when and why, when something is frozen."""
    if frozen:
        raise Denied(
            f"{verb} refused: {frozen[0].sentence}",
            hint="wait for its end, `airboss freeze end` what a person began, or --break-glass --reason TEXT; "
            "a rollback is never frozen",
            code="frozen",
        )
