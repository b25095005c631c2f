"""How many GPUs a cluster has, and how many pods of the namespace hold. Reading nodes is optional: without it nothing is said."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapters.kubernetes.client import KubeClient
from state.words import AirbossError

Object = Mapping[str, Any]


async def gpus_said(client: KubeClient, namespace: str, resource: str) -> str:
    """`8 nvidia.com/gpu on 1 node, 3 held by pods of ml`; "" where nodes may not be read, or none has such a GPU."""
    try:
        nodes, _ = await client.list("/api/v1/nodes")
        pods, _ = await client.list(f"/api/v1/namespaces/{namespace}/pods")
    except AirbossError:
        return ""
    there = [count for node in nodes if (count := allocatable(node, resource))]
    if not there:
        return ""
    return (
        f"{sum(there)} {resource} on {len(there)} node{'s' if len(there) > 1 else ''}, {held(pods, resource)} held by"
        f" pods of {namespace}"
    )


def allocatable(node: Object, resource: str) -> int:
    """GPUs that pods may have there; none on a node that takes no new pods."""
    if node.get("spec", {}).get("unschedulable"):
        return 0
    return int(node.get("status", {}).get("allocatable", {}).get(resource, 0))


def held(pods: Iterable[Object], resource: str) -> int:
    """GPUs that pods hold that are on a node and have not ended."""
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(resource, 0))
        for pod in pods
        if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
        for container in pod["spec"].get("containers", ())
    )
