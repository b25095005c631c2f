"""The policy that a rollout keeps, whatever becomes of the file: the environment's, with what the command asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.rollouts.playable import refuse_unplayed
from engine.rollouts.strategies import approvals_within, frozen_steps, room_of
from state.config import Config
from state.haproxy_limits import carried
from state.policy_config import Policy, Step, check_steps, parse_steps
from state.words import Denied, Strategy, UsageError


def frozen_policy(config: Config, service: str, env: str, strategy: str, steps: Sequence[object]) -> dict[str, Any]:
    """The policy as the rollout's row keeps it. `strategy` "" and no `steps` are the environment's own.

    Raises UsageError for what cannot be played, Denied when the steps leave out an approval that the policy asks for.
    """
    policy = config.policy_of(env)
    if strategy not in ("", *Strategy):
        raise UsageError(f"there is no strategy {strategy!r}", hint=f"one of {', '.join(Strategy)}", code="strategy")
    chosen = Strategy(strategy) if strategy else policy.strategy
    asked = _steps(chosen, steps) if steps else _fitting(chosen, policy, carried(Policy(), config.gateway.engine).steps)
    missing = approvals_within(policy.steps) - approvals_within(asked)
    if missing > 0:
        raise Denied(
            f"policy {config.environment[env].policy} asks for {missing} approval(s) between its steps that "
            f"{'--steps' if steps else f'--strategy {chosen}'} leaves out",
            hint="add approval=N to --steps, or change the policy",
            code="approval_left_out",
        )
    played = policy.model_copy(update={"strategy": chosen, "steps": asked})
    refuse_unplayed(config, service, env, played)
    settings = config.service[service]
    surge, unavailable = room_of(chosen, played, settings.replicas)
    return {
        "strategy": chosen.value,
        "steps": frozen_steps(chosen, played, settings.replicas),
        "judge": policy.judge.model_dump(mode="json"),
        "slo": settings.slo.model_dump(mode="json"),
        "quality": settings.quality.model_dump(mode="json"),
        "cost": settings.cost.model_dump(mode="json"),
        "approvals": policy.approvals,
        "approval_timeout": policy.approval_timeout,
        "warm_hold": policy.warm_hold,
        "warm_replicas": policy.warm_replicas,
        "prepare_timeout": policy.prepare_timeout,
        "auto_promote": policy.auto_promote and (chosen is not Strategy.SHADOW or policy.shadow.then == "promote"),
        "replicas": settings.replicas,
        "serving": dict(settings.serving),
        "surge": surge,
        "unavailable": unavailable,
        "baseline": policy.baseline and chosen is Strategy.CANARY,
        "affinity": policy.affinity,
        "shadow": policy.shadow.model_dump(mode="json"),
    }


def _fitting(strategy: Strategy, policy: Policy, default: tuple[Step, ...]) -> tuple[Step, ...]:
    """What of the policy's steps the strategy plays: all of its own, all but weights where it has none.

    The steps a policy has without naming any are a canary's: the other strategies take them for none.
    """
    is_own = policy.strategy is Strategy.CANARY or "steps" in policy.model_fields_set
    own = policy.steps if is_own and strategy in (policy.strategy, Strategy.BLUE_GREEN) else ()
    if strategy is Strategy.CANARY:
        return own or default
    return tuple(step for step in own if step.kind != "weight")


def _steps(strategy: Strategy, given: Sequence[object]) -> tuple[Step, ...]:
    """The steps of the command line; a canary's last weight is 100, whether or not it says so."""
    said = ",".join(map(str, given))
    try:
        steps = parse_steps(given)
        weights = [step.weight for step in steps if step.weight is not None]
        if strategy is Strategy.CANARY and (not weights or weights[-1] != 100):
            steps = (*steps, Step(weight=100))
        check_steps(strategy, steps)
    except ValueError as error:
        raise UsageError(
            f"--steps {said}: {error}", hint="for example --steps mirror=10,5,25,pause=10m,50", code="steps"
        ) from error
    return steps
