"""The Kubernetes adapter against an API server: what it writes, what it waits for, and what it refuses to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube_things import gateway
from serving_pods import model

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.router import KubeRouter
from adapters.kubernetes.runtime import KubeRuntime
from adapters.ports import ReplicaSetSpec
from state.config import parse_config
from state.words import Denied

if TYPE_CHECKING:
    from kube.server import KubeServer

CONFIG = """
[service.chat.kubernetes]
image = "vllm/vllm-openai:v0.11.0"
[environment.production]
targets = [{{ runtime = "kubernetes", kubeconfig = "{kubeconfig}", namespace = "default", traffic = "httproute", gateway = "front", ownership = "{ownership}" }}]
"""


__all__ = ["model"]


def cluster_of(kubeconfig: Path, tmp_path: Path, ownership: str = "full") -> Cluster:
    config = parse_config(CONFIG.format(kubeconfig=kubeconfig, ownership=ownership), Path("airboss.toml"))
    target = config.environment["production"].cluster
    assert target is not None
    return Cluster("production", target, config, tmp_path, lambda: None)


@pytest.fixture
async def cluster(kube: KubeServer, kubeconfig: Path, tmp_path: Path, model: int) -> AsyncIterator[Cluster]:
    """Followed, in a cluster whose pods generate."""
    kube.create(gateway())
    kube.pods.address("127.0.0.1", model, labels={objects.NAME: "chat"})
    made = cluster_of(kubeconfig, tmp_path)
    following = asyncio.create_task(made.run())
    await asyncio.wait_for(made.deployments.is_filled.wait(), 20)
    yield made
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


def release(name: str, replicas: int) -> ReplicaSetSpec:
    return ReplicaSetSpec("chat", "production", name, "ab" * 32, Path("/bundle"), replicas)


def table(**tracks: tuple[str, int]) -> list[dict[str, Any]]:
    """The router's table: track → (release, weight)."""
    backends = [{"track": t, "release_id": r, "weight": w, "replicas": []} for t, (r, w) in tracks.items()]
    return [{"service": "chat", "env": "production", "backends": backends}]


async def comes_up(runtime: KubeRuntime, spec: ReplicaSetSpec) -> None:
    await runtime.ensure(spec)
    async with asyncio.timeout(30):
        while await runtime.probe(spec) is not None:
            await asyncio.sleep(0.05)


async def test_a_canary_goes_forward_and_back_by_the_weights_of_an_http_route(
    kube: KubeServer, cluster: Cluster
) -> None:
    runtime, router = KubeRuntime(cluster), KubeRouter(cluster)
    await comes_up(runtime, release("chat-1", 2))
    await router.settle(table(stable=("chat-1", 100)), "chat")
    await comes_up(runtime, release("chat-2", 1))
    await router.settle(table(stable=("chat-1", 90), canary=("chat-2", 10)), "chat")
    seen = await router.observe("chat")
    assert seen is not None and seen.weights == {"chat-1": 90, "chat-2": 10}
    kube.requests.clear()
    await router.settle(table(stable=("chat-1", 100)), "chat")
    seen = await router.observe("chat")
    assert seen is not None and seen.weights == {"chat-1": 100}
    (write,) = kube.requests.writes("")
    assert write.method == "PATCH" and write.query["fieldManager"] == "airboss"
    assert [o["op"] for o in write.body][:1] == ["test"], "nothing is replaced that was not tested"


async def test_a_promotion_leads_the_stable_service_to_the_new_release(kube: KubeServer, cluster: Cluster) -> None:
    runtime, router = KubeRuntime(cluster), KubeRouter(cluster)
    for name in ("chat-1", "chat-2"):
        await comes_up(runtime, release(name, 1))
    await router.settle(table(stable=("chat-1", 0), canary=("chat-2", 100)), "chat")
    await router.settle(table(stable=("chat-2", 100)), "chat")
    seen = await router.observe("chat")
    assert seen is not None and seen.weights == {"chat-2": 100}
    selector = kube.object("services", "chat-stable")["spec"]["selector"]
    assert selector == {objects.HASH: objects.spec_hash(release("chat-2", 1))}


async def test_a_release_that_is_there_is_scaled_and_its_pods_are_not_replaced(
    kube: KubeServer, cluster: Cluster
) -> None:
    runtime = KubeRuntime(cluster)
    await comes_up(runtime, release("chat-1", 1))
    name = objects.name_of(release("chat-1", 1))
    template = kube.object("deployments", name)["spec"]["template"]
    await comes_up(runtime, release("chat-1", 3))
    await runtime.ensure(release("chat-1", 0))
    found = kube.object("deployments", name)["spec"]
    assert found["replicas"] == 0 and found["template"] == template


async def test_an_image_that_is_not_there_is_told_in_the_clusters_words(kube: KubeServer, cluster: Cluster) -> None:
    runtime = KubeRuntime(cluster)
    kube.pods.trouble("ImagePullBackOff")
    await runtime.ensure(release("chat-1", 1))
    async with asyncio.timeout(30):
        while not (why := runtime.lacks("chat", "production", "chat-1")):
            await asyncio.sleep(0.05)
    assert "Pull" in why


async def test_what_is_only_observed_is_not_written(kube: KubeServer, kubeconfig: Path, tmp_path: Path) -> None:
    cluster = cluster_of(kubeconfig, tmp_path, "observe")
    with pytest.raises(Denied, match="observe"):
        await KubeRuntime(cluster).ensure(release("chat-1", 1))
    assert not kube.requests.writes("deployments")
    await cluster.client.close()
