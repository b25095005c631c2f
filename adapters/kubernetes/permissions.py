"""What the configuration needs us to be allowed, and what of it we are not: asked of the cluster before an incident asks."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from adapters.kubernetes.client import KubeClient
from state.kubernetes_config import Target


class Need(NamedTuple):
    """One verb on one resource in the namespace."""

    group: str
    resource: str
    verb: str
    sub: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{f'/{self.sub}' if self.sub else ''}"


READ = tuple(
    Need(group, resource, verb)
    for group, resource in (("", "pods"), ("apps", "deployments"))
    for verb in ("get", "list", "watch")
)
SCALE = (Need("apps", "deployments", "patch", "scale"),)
WEIGHTS = (
    Need("", "services", "get"),
    Need("", "services", "patch"),
    Need("gateway.networking.k8s.io", "httproutes", "get"),
    Need("gateway.networking.k8s.io", "httproutes", "patch"),
    Need("discovery.k8s.io", "endpointslices", "list"),
)
SELECTORS = (
    Need("", "services", "get"), Need("", "services", "create"), Need("", "services", "patch"),
    Need("discovery.k8s.io", "endpointslices", "list"),
)  # fmt: skip
MAKE = tuple(
    Need(group, resource, verb)
    for group, resource in (("apps", "deployments"), ("", "configmaps"))
    for verb in ("create", "patch")
)


def needs(target: Target) -> tuple[Need, ...]:
    """Everything a rollout there will ask."""
    found = [*READ]
    if target.ownership != "observe":
        found += SCALE
        if target.traffic == "httproute":
            found += WEIGHTS
        if target.traffic == "service":
            found += [need for need in SELECTORS if need.verb != "create"]
    if target.ownership == "full":
        found += MAKE
        if target.traffic != "gateway":
            found += SELECTORS
        if target.traffic == "httproute":
            found.append(Need("gateway.networking.k8s.io", "httproutes", "create"))
    if target.lease:
        found += [Need("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "patch")]
    if target.probes_by_proxy:
        found.append(Need("", "pods", "create", "proxy"))
    return tuple(dict.fromkeys(found))


async def missing(client: KubeClient, target: Target) -> tuple[str, ...]:
    """What is not allowed, as `VERB RESOURCE`. Raises AirbossError when the cluster does not say."""
    asked = needs(target)
    allowed = await asyncio.gather(*(is_allowed(client, target.namespace or "", need) for need in asked))
    return tuple(str(need) for need, yes in zip(asked, allowed, strict=True) if not yes)


async def is_allowed(client: KubeClient, namespace: str, need: Need) -> bool:
    """What a SelfSubjectAccessReview says."""
    attributes = {
        "namespace": namespace, "group": need.group, "resource": need.resource, "subresource": need.sub, "verb": need.verb,
    }  # fmt: skip
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {name: value for name, value in attributes.items() if value}},
    }  # fmt: skip
    answer = await client.create("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool(answer.get("status", {}).get("allowed"))
