"""What a configuration may ask of a rollout and this version, or this workspace, cannot do. Refused by name."""

from __future__ import annotations

from state.config import Config
from state.haproxy_limits import rollout_beyond_haproxy
from state.policy_config import Policy
from state.words import Strategy, UsageError


def refuse_unplayed(config: Config, service: str, env: str, policy: Policy) -> None:
    """Raise UsageError for targets, a gateway or a service that the policy cannot be played on."""
    environment = config.environment[env]
    if [target.runtime for target in environment.targets] != ["local"]:
        asked = ", ".join(target.runtime for target in environment.targets) or "none"
        raise UsageError(
            f"{env} runs on targets ({asked}) that this version does not drive",
            hint=f'environment.{env}.targets = [{{ runtime = "local" }}]: one target, processes on this host',
            code="target",
        )
    if config.gateway.engine == "haproxy" and (beyond := list(rollout_beyond_haproxy(policy))):
        raise UsageError(
            f'gateway.engine = "haproxy" cannot carry {"; ".join(beyond)}',
            hint='use plain weights (canary, rolling, swap), or gateway.engine = "airboss"',
            code="haproxy",
        )
    if policy.strategy in (Strategy.ROLLING, Strategy.SWAP) and config.service[service].autoscale is not None:
        raise UsageError(
            f"{policy.strategy} counts replicas by itself, and service.{service}.autoscale changes them meanwhile",
            hint="use canary or blue-green for a service that scales by itself",
            code="autoscale",
        )
