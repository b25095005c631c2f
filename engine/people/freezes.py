"""What keeps an environment from moving forward: freezes that people began, and windows of airboss.toml."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlmodel import Session, select

from engine.people.windows import occurrence
from state.config import Config
from state.freeze_config import FreezeWindow
from state.models import Lease
from state.words import Denied


@dataclass(frozen=True, slots=True)
class Freeze:
    """A freeze or a hold: where, who, why, from when to when."""

    kind: str
    """`freeze` or `hold`, begun by a person; `window`, of airboss.toml."""
    name: str
    env: str
    by: str
    reason: str
    since: float
    until: float

    def holds(self, at: float) -> bool:
        """Whether it is in force."""
        return self.since <= at < self.until

    @property
    def sentence(self) -> str:
        """Who, until when, why."""
        until = datetime.fromtimestamp(self.until, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")
        return f"{self.env} is frozen until {until} by {self.by}: {self.reason or 'no reason was given'}"


def planned(session: Session, config: Config, at: float) -> tuple[Freeze, ...]:
    """Freezes, holds and windows, those in force and the next of each window; the soonest end first."""
    leases = session.exec(select(Lease).where(Lease.ends_at > at))
    found = [
        Freeze(row.kind, row.name, row.name.partition("/")[2], row.holder, row.reason, row.starts_at, row.ends_at)
        for row in leases
    ]
    for name, window in config.freeze.items():
        span = occurrence(window, at)
        if span is not None:
            found += [
                Freeze("window", name, env, f"[freeze.{name}]", window.reason, span.since, span.until)
                for env in places_of(window, config)
            ]
    return tuple(sorted(found, key=lambda one: (one.until, one.env, one.name)))


def places_of(window: FreezeWindow, config: Config) -> tuple[str, ...]:
    """The environments that a window is for."""
    return window.environments or tuple(name for name, env in config.environment.items() if env.protected)


def in_force(session: Session, config: Config, env: str, at: float) -> tuple[Freeze, ...]:
    """What freezes `env` at `at`, the latest end first."""
    frozen = [
        one for one in planned(session, config, at)
        if one.kind != "hold" and one.env in (env, "*") and one.holds(at)
    ]  # fmt: skip
    return tuple(sorted(frozen, key=lambda one: -one.until))


def demand_thawed(frozen: tuple[Freeze, ...], verb: str) -> None:
    """Raise Denied, saying who, until when and why, when something is frozen."""
    if frozen:
        raise Denied(
            f"{verb} refused: {frozen[0].sentence}",
            hint="wait for its end, `airboss freeze end`, or --break-glass --reason TEXT; a rollback is never frozen",
            code="frozen",
        )
