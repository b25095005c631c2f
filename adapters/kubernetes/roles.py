"""What one may be allowed in a namespace, and the lines of a Role that allow it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from state.kubernetes_config import Target


class Need(NamedTuple):
    """One verb on one resource in the namespace."""

    group: str
    resource: str
    verb: str
    sub: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.what}{f' ({self.group})' if self.group else ''}"

    @property
    def what(self) -> str:
        """`deployments/scale`, as a Role names it."""
        return f"{self.resource}/{self.sub}" if self.sub else self.resource


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
    """Everything a rollout there will ask; what it can go without (budgets, autoscalers, logs) is not in it."""
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
        if target.traffic == "httproute" and target.gateway:
            found.append(Need("gateway.networking.k8s.io", "httproutes", "create"))
    if target.lease:
        found += [Need("coordination.k8s.io", "leases", verb) for verb in ("get", "create", "patch")]
    if target.probes_by_proxy:
        found.append(Need("", "pods", "create", "proxy"))
    return tuple(dict.fromkeys(found))


def role_lines(lacking: Iterable[Need]) -> list[str]:
    """The rules that a Role of the namespace lacks, one a resource."""
    verbs: dict[tuple[str, str], list[str]] = {}
    for need in lacking:
        verbs.setdefault((need.group, need.what), []).append(need.verb)
    return [
        f'- {{ apiGroups: ["{group}"], resources: [{what}], verbs: [{", ".join(dict.fromkeys(of))}] }}'
        for (group, what), of in verbs.items()
    ]


def need_of(verb: str, path: str) -> Need | None:
    """What a request to an API path asks to be allowed; None for a path outside a namespace."""
    parts = path.strip("/").split("/")
    if "namespaces" not in parts[:-2]:
        return None
    group = parts[1] if parts[0] == "apis" else ""
    at = parts.index("namespaces") + 2
    sub = parts[at + 2] if len(parts) > at + 2 else ""
    return Need(group, parts[at], verb, sub)
