"""What a configuration may ask of a rollout and this version, or this workspace, cannot do. Refused by name."""

from __future__ import annotations

from engine.metrics_source import profile_of
from state.config import Config
from state.haproxy_limits import rollout_beyond_haproxy
from state.kubernetes_config import Target
from state.policy_config import Policy
from state.words import Strategy, UsageError


def refuse_unplayed(config: Config, service: str, env: str, policy: Policy) -> None:
    """Raise UsageError for targets, a gateway or a service that the policy cannot be played on."""
    environment = config.environment[env]
    if len(environment.targets) != 1:
        raise UsageError(
            f"{env} runs on {len(environment.targets)} targets, and this version drives one",
            hint=f"environment.{env}.targets: one entry",
            code="target",
        )
    if environment.cluster is not None:
        refuse_in_cluster(config, env, environment.cluster, policy)
    if config.gateway.engine == "haproxy" and (beyond := list(rollout_beyond_haproxy(policy))):
        raise UsageError(
            f'gateway.engine = "haproxy" cannot carry {"; ".join(beyond)}',
            hint='use plain weights (canary, rolling, swap), or gateway.engine = "airboss"',
            code="haproxy",
        )
    if config.metrics.url is not None:
        refuse_unjudged(config, service, env, policy)
    if policy.strategy in (Strategy.ROLLING, Strategy.SWAP) and config.service[service].autoscale is not None:
        raise UsageError(
            f"{policy.strategy} counts replicas by itself, and service.{service}.autoscale changes them meanwhile",
            hint="use canary or blue-green for a service that scales by itself",
            code="autoscale",
        )


def refuse_unjudged(config: Config, service: str, env: str, policy: Policy) -> None:
    """Raise UsageError where the profile's server does not count what the policy judges: it would pause at the first step."""
    reading = profile_of(config, service, env)
    if why := reading.profile.cannot:
        raise UsageError(
            f"{service} in {env} cannot be judged by profile {reading.profile.name}: {why}",
            hint="`airboss help prometheus` has what each profile can be asked",
            code="evidence",
        )
    if policy.judge.latency and not reading.choice.latency:
        raise UsageError(
            f"the policy judges latency, and service.{service}.metrics says that nobody counts slow requests in {env}",
            hint="judge = { latency = false } in the policy, or latency = true where the server has them",
            code="evidence",
        )


def refuse_in_cluster(config: Config, env: str, target: Target, policy: Policy) -> None:
    """Raise UsageError for what the target's ownership or traffic cannot carry: before the first write, not after it."""
    if target.ownership == "observe":
        raise UsageError(
            f'{env} is observed, not driven: environment.{env}.targets has ownership = "observe", the default',
            hint='"weights" moves weights and replica counts of what Git brought, "full" makes the objects too',
            code="kube_ownership",
        )
    if target.traffic == "gateway":
        return
    if target.traffic == "service" and policy.strategy is not Strategy.BLUE_GREEN:
        raise UsageError(
            f'{env}: a Service\'s selector (traffic = "service") leads all requests or none; {policy.strategy} splits them',
            hint='use blue-green, or traffic = "httproute" or "gateway"',
            code="kube_traffic",
        )
    unexact = any(step.cookie or (step.header and "=" not in step.header) for step in policy.steps)
    if target.traffic == "httproute" and (policy.affinity or unexact):
        raise UsageError(
            f"{env}: an HTTPRoute cannot keep a caller on a track, nor lead by cookie or by a header of any value",
            hint='take `affinity` out, and match "header NAME=VALUE"; traffic = "gateway" can do all of it',
            code="kube_traffic",
        )
    if config.metrics.url is None:
        raise UsageError(
            f'{env}: traffic = "{target.traffic}" does not pass our gateway, so nothing here counts its requests',
            hint='[metrics] url = "…" of a Prometheus that does, or traffic = "gateway"',
            code="kube_evidence",
        )
