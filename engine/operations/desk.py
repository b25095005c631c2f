"""The desk: what the verbs act on, and the checks that every one of them passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.access import Actor, demand, demand_confirmation
from engine.api.schemas import VerbRequest
from engine.observe.alerts import AlertBook
from engine.pipelines.runner import PipelineRunner
from engine.rollouts.controller import Controller
from state.config import Config
from state.store import Store
from state.words import UsageError


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

    def permit(self, request: VerbRequest, actor: Actor, env: str, service: str) -> None:
        """Role, read-only mode and the confirm ladder, in this order. A dry run changes nothing and needs neither."""
        if request.dry_run:
            return
        demand(self.config, env, actor, request.verb)
        known = self.config.environment.get(env)
        demand_confirmation(
            request.verb,
            protected=known.protected if known else True,
            service=service,
            yes=request.yes,
            confirm_name=request.confirm_name,
            reason=request.reason,
        )


def noun(request: VerbRequest, kind: str) -> str:
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
