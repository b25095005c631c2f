"""The desk: what the verbs act on, and the checks that every one of them passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlmodel import Session

from engine.access import EVERYWHERE, Actor, demand, demand_confirmation, demand_person, environments
from engine.api.schemas import VerbRequest
from engine.observe.alerts import AlertBook
from engine.operations.once import Once
from engine.pipelines.runner import PipelineRunner
from engine.registry_catalogue import CatalogueCache
from engine.restored.standing import Standing
from engine.rollouts.controller import Controller
from state.config import Config
from state.models import Alert, Rollout, Silence
from state.store import Store
from state.words import UsageError

MOST_DIGITS = 18
"""Of a number of a row: SQLite's integers have 64 bits."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the verbs act on."""

    store: Store
    config: Config
    controller: Controller
    runner: PipelineRunner
    alerts: AlertBook
    workspace: Path
    on_change: Callable[[str, str], None]
    stop: Callable[[bool], None]
    """Stop the engine; with True, everything it serves too."""
    restored: Standing
    public_url: Callable[[], str]
    """Where users reach the gateway; "" while it has no port yet."""
    catalogue: CatalogueCache | None = None
    """The registry, for what is taken from it."""
    once: Once = field(default_factory=Once)
    """The verbs at work under an idempotency key."""

    def permit(self, request: VerbRequest, actor: Actor, env: str, service: str) -> None:
        """Role, read-only mode and the confirm ladder, in this order. A dry run changes nothing and needs neither.

        With `*` as `env`, every environment must permit it. `service` is the name that confirms.
        """
        if request.dry_run:
            return
        for one in environments(self.config) if env == EVERYWHERE else (env,):
            demand(self.config, one, actor, request.verb)
            if not request.break_glass:
                demand_person(self.config, actor, request.verb)
            known = self.config.environment.get(one)
            demand_confirmation(request, protected=known.protected if known else True, service=service)


def noun(request: VerbRequest, kind: str) -> str:
    """The name in the request's reference. Raises UsageError when it is of another kind than `kind`."""
    found, _, name = request.ref.partition("/")
    if found != kind or not name:
        raise UsageError(f"{request.verb} takes a {kind}/NAME, not {request.ref!r}", code="ref")
    return name


def env_of(config: Config, request: VerbRequest) -> str:
    """The environment meant: the one named, or the only one. Raises UsageError when it must be said."""
    env = request.args.get("env")
    if env:
        return str(env)
    if len(config.environment) == 1:
        return next(iter(config.environment))
    raise UsageError(
        f"{request.verb} needs an environment: there are {', '.join(config.environment)}",
        hint="add --env ENV",
        code="env",
    )


def row_number(name: str) -> int | None:
    """The number of a row that `name` is; None when it is none, or one that no store can hold."""
    return int(name) if name.isdecimal() and len(name) <= MOST_DIGITS else None


def known_env(config: Config, env: str) -> str:
    """`env`, if the workspace has it or it is `*`. Raises UsageError naming those there are."""
    if env != EVERYWHERE and env not in config.environment:
        raise UsageError(
            f"there is no environment {env!r}",
            hint=f"airboss.toml has: {', '.join(config.environment) or 'none'}; {EVERYWHERE} is all of them",
            code="env",
        )
    return env


def positive(request: VerbRequest, name: str, default: float) -> float:
    """The argument `name`, a number above 0. Raises UsageError for anything else."""
    given = request.args.get(name, default)
    try:
        number = math.nan if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UsageError(f"{name} is a number above 0, not {given!r}", code="number")
    return number


@dataclass(frozen=True, slots=True)
class Place:
    """Where a thing is: its environment (`*` for all of them), and the name that confirms a verb on it."""

    env: str
    name: str


def place_of(session: Session, ref: str) -> Place | None:
    """The place of a rollout, an alert, a silence or an environment; None for what has none, or is not there."""
    kind, _, name = ref.partition("/")
    if kind == "env":
        return Place(name, name)
    if kind == "rollout":
        rollout = session.get(Rollout, name)
        return Place(rollout.env, rollout.service) if rollout else None
    if kind == "alert" and row_number(name) is not None:
        alert = session.get(Alert, int(name))
        return Place(alert.env or EVERYWHERE, alert.service or alert.name) if alert else None
    if kind == "silence" and row_number(name) is not None:
        silence = session.get(Silence, int(name))
        if silence is not None:
            matched = silence.matchers
            return Place(matched.get("env") or EVERYWHERE, matched.get("service") or matched.get("name", ""))
    return None
