"""What a configuration may ask of a rollout and this version does not do. Refused by name, never done otherwise."""

from __future__ import annotations

from state.config import Environment
from state.policy_config import Policy
from state.words import Strategy, UsageError

PLAYED_STEPS = ("weight", "pause", "approval", "analysis")


def refuse_unplayed(env: str, environment: Environment, strategy: Strategy, policy: Policy) -> None:
    """Raise UsageError for targets, a strategy or steps that cannot be played here."""
    if [target.runtime for target in environment.targets] != ["local"]:
        asked = ", ".join(target.runtime for target in environment.targets) or "none"
        raise UsageError(
            f"{env} runs on targets ({asked}) that this version does not drive",
            hint=f'environment.{env}.targets = [{{ runtime = "local" }}]: one target, processes on this host',
            code="target",
        )
    if strategy is not Strategy.CANARY:
        raise UsageError(
            f"the strategy {strategy.value!r} is not played by this version", hint="use canary", code="strategy"
        )
    for step in policy.steps:
        if step.kind not in PLAYED_STEPS:
            raise UsageError(
                f"a step {step.kind!r} is not played by this version",
                hint=f"policy.{environment.policy}.steps may have: {', '.join(PLAYED_STEPS)}",
                code="step_kind",
            )
