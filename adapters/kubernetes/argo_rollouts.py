"""Argo Rollouts beside us: a Rollout object that moves what a rollout of ours would write is found before, and is not fought."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from state.words import Denied, OperationFailed

GATEWAY_PLUGIN = "argoproj-labs/gatewayAPI"
Object = Mapping[str, Any]
SERVICES = ("stableService", "canaryService", "activeService", "previewService")


def written_by(rollout: Object) -> set[tuple[str, str]]:
    """(kind, name) of all that Argo's controller writes for this Rollout: Services, routes, the Deployment it takes its pods from."""
    spec = rollout.get("spec") or {}
    found = set()
    for strategy in (spec.get("strategy") or {}).values():
        strategy = strategy or {}
        found |= {("Service", str(strategy[field])) for field in SERVICES if strategy.get(field)}
        plugin = ((strategy.get("trafficRouting") or {}).get("plugins") or {}).get(GATEWAY_PLUGIN) or {}
        routes = [plugin.get("httpRoute"), *(one.get("name") for one in plugin.get("httpRoutes") or ())]
        found |= {("HTTPRoute", str(name)) for name in routes if name}
    ref = spec.get("workloadRef") or {}
    return found | ({(str(ref.get("kind")), str(ref.get("name")))} if ref else set())


async def moved_by_argo(cluster: Cluster, service: str, route: str) -> str:
    """Which Rollout moves something that a rollout of the service would write, and where it stands; "" for none.

    Where its kind is not installed, or we may not list it, there is none that we know of. Raises Unreachable.
    """
    try:
        rollouts, _ = await cluster.client.list(f"/apis/argoproj.io/v1alpha1/namespaces/{cluster.namespace}/rollouts")
    except (OperationFailed, Denied):
        return ""
    tracks = ("entry", "preview") if cluster.target.traffic == "service" else ("stable", "canary", "baseline", "shadow")
    ours = {("Service", objects.track_service(service, track)) for track in tracks}
    ours |= {("HTTPRoute", route)} if cluster.target.traffic == "httproute" else set()
    ours |= {
        ("Deployment", name)
        for name, one in cluster.deployments.objects.items()
        if (one["metadata"].get("labels") or {}).get(objects.NAME) == service
    }
    for one in rollouts:
        if both := sorted(written_by(one) & ours):
            kind, name = both[0]
            status = one.get("status") or {}
            stands = f", {status['phase']}" if status.get("phase") else ""
            return f"{kind} {name} is moved by the Rollout {one['metadata']['name']} of Argo Rollouts{stands}"
    return ""
