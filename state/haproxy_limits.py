"""What `[gateway] engine = "haproxy"` cannot carry: named while the file is read, so that nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from state.config import Environment, Service
    from state.gateway_config import GatewayConfig
    from state.policy_config import Policy


def beyond_haproxy(
    gateway: GatewayConfig,
    services: Mapping[str, Service],
    environments: Mapping[str, Environment],
    policies: Mapping[str, Policy],
) -> Iterator[str]:
    """A sentence for each thing in the file that HAProxy would have to leave out; none when it is not the engine."""
    if gateway.engine != "haproxy":
        return
    if gateway.auth.mode != "none":
        yield f"gateway.auth.mode = {gateway.auth.mode!r}: it checks no API keys and no tokens"
    if any(limit.is_set for limit in (gateway.rate.key, gateway.rate.tenant, gateway.rate.address)):
        yield "gateway.rate: it does not know callers by key, and does not count tokens"
    if gateway.tls_cert:
        yield "gateway.tls_cert: it is driven without TLS; let what stands before it end TLS"
    for name, service in services.items():
        if service.routing.for_table(1):
            yield f"service.{name}.routing: it splits by weight alone"
        access = service.access_for_table() or {}
        for what in ("cache", "safety"):
            if access.get(what):
                yield f"service.{name}.{what}: it does not read answers"
        for what in service.measures_for_table() or ():
            if (service.measures_for_table() or {}).get(what):
                yield f"service.{name}.{what}: it does not read answers"
    for name, environment in environments.items():
        policy = policies.get(environment.policy)
        for what in rollout_beyond_haproxy(carried(policy, gateway.engine)) if policy is not None else ():
            yield f"policy.{environment.policy}, of environment.{name}: {what}"


def carried(policy: Policy, engine: str) -> Policy:
    """The policy as the gateway's engine plays it: HAProxy leaves the copies out of steps that nobody named."""
    if engine != "haproxy" or "steps" in policy.model_fields_set:
        return policy
    return policy.model_copy(update={"steps": tuple(step for step in policy.steps if step.kind != "mirror")})


def rollout_beyond_haproxy(policy: Policy) -> Iterator[str]:
    """A sentence for each thing of a rollout that needs more than weights."""
    if policy.strategy in ("blue-green", "shadow"):
        what = "preview by header" if policy.strategy == "blue-green" else "copies of requests"
        yield f"the strategy {policy.strategy}: it has no {what}"
    for step in policy.steps:
        if step.kind in ("mirror", "header", "cookie"):
            yield f"a step {step.kind}: it has no {step.kind}"
    if policy.affinity:
        yield "affinity: it splits by weight alone"
