"""The controllers of the test API server: pods, deployments, endpoints, routes, and what scripts do to them."""

from __future__ import annotations

from typing import Any

import pytest
from kube.server import KubeServer
from kube_things import deployment, gateway, route, service
from kubernetes import client


def progress(kube: KubeServer, kind: str = "Progressing") -> tuple[str, str]:
    """(status, reason) of a condition of the Deployment `chat`."""
    rows = kube.object("deployments", "chat")["status"]["conditions"]
    return next((row["status"], row["reason"]) for row in rows if row["type"] == kind)


def change_image(kube: KubeServer, image: str) -> None:
    """Another image for the Deployment `chat`."""
    kube.edit("deployments", "chat", lambda obj: obj["spec"]["template"]["spec"]["containers"][0].update(image=image))


@pytest.fixture
def still(kube: KubeServer) -> KubeServer:
    """The server with controllers that wait to be told."""
    kube.automatic = False
    return kube


def test_a_deployment_comes_up_by_itself(kube: KubeServer, kube_client: Any) -> None:
    apps = client.AppsV1Api(kube_client)
    apps.create_namespaced_deployment("default", deployment())
    kube.wait_for(
        lambda: apps.read_namespaced_deployment("chat", "default").status.available_replicas == 2, "2 available"
    )
    read = apps.read_namespaced_deployment_status("chat", "default")
    assert read.status.observed_generation == read.metadata.generation == 1
    assert read.metadata.annotations["deployment.kubernetes.io/revision"] == "1"
    pods = client.CoreV1Api(kube_client).list_namespaced_pod("default", label_selector="app=chat").items
    assert len(pods) == 2 and all(pod.status.phase == "Running" and pod.status.pod_ip for pod in pods)
    (replica_set,) = apps.list_namespaced_replica_set("default").items
    assert pods[0].metadata.labels["pod-template-hash"] == replica_set.metadata.labels["pod-template-hash"]


def test_a_rolling_update_stays_within_surge_and_unavailable(still: KubeServer) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    still.create(deployment(replicas=4, strategy=strategy))
    still.settle()
    change_image(still, "repo/chat:2")
    seen = set()
    for _ in range(40):
        still.step()
        status = still.object("deployments", "chat")["status"]
        seen.add((status["replicas"], status["availableReplicas"]))
    assert max(total for total, _ in seen) == 5 and min(available for _, available in seen) >= 4
    assert progress(still) == ("True", "NewReplicaSetAvailable")
    assert [pod["spec"]["containers"][0]["image"] for pod in still.objects("pods")] == ["repo/chat:2"] * 4


def test_the_way_back_reuses_the_old_replica_set_with_a_new_revision(still: KubeServer) -> None:
    still.create(deployment())
    still.settle()
    (first,) = still.objects("replicasets")
    change_image(still, "repo/chat:2")
    still.settle()
    template = deployment()["spec"]["template"]
    template["metadata"]["creationTimestamp"] = None  # as kubectl rollout undo sends it
    still.edit("deployments", "chat", lambda obj: obj["spec"].update(template=template))
    still.settle()
    sets = {each["metadata"]["name"]: each for each in still.objects("replicasets")}
    assert len(sets) == 2
    again = sets[first["metadata"]["name"]]
    assert (
        again["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3" and again["spec"]["replicas"] == 2
    )


def test_a_paused_deployment_scales_but_does_not_roll(still: KubeServer) -> None:
    still.create(deployment())
    still.settle()
    still.edit("deployments", "chat", lambda obj: obj["spec"].update(paused=True, replicas=3))
    change_image(still, "repo/chat:2")
    still.settle()
    assert progress(still) == ("Unknown", "DeploymentPaused")
    assert [pod["spec"]["containers"][0]["image"] for pod in still.objects("pods")] == ["repo/chat:1"] * 3


def test_no_progress_until_the_deadline_by_the_servers_clock(still: KubeServer) -> None:
    still.create(deployment(progressDeadlineSeconds=60))
    still.pods.trouble("Unready", labels={"app": "chat"})
    still.settle()
    assert progress(still)[1] == "ReplicaSetUpdated" and progress(still, "Available")[0] == "False"
    still.clock.advance(61)
    still.settle()
    assert progress(still) == ("False", "ProgressDeadlineExceeded")
    still.pods.well(labels={"app": "chat"})
    still.settle()
    assert progress(still) == ("True", "NewReplicaSetAvailable")


@pytest.mark.parametrize(
    ("kind", "phase", "reason"),
    [
        ("ImagePullBackOff", "Pending", "ImagePullBackOff"),
        ("CrashLoopBackOff", "Running", "CrashLoopBackOff"),
        ("OOMKilled", "Running", "CrashLoopBackOff"),
    ],
)
def test_a_pod_says_what_is_wrong_with_it(still: KubeServer, kind: str, phase: str, reason: str) -> None:
    still.pods.trouble(kind, image="chat:2")
    still.create(deployment(replicas=1))
    still.create(deployment("next", image="repo/chat:2", replicas=1))
    still.settle()
    good, bad = still.objects("pods")
    assert good["status"]["containerStatuses"][0]["ready"] is True
    (container,) = bad["status"]["containerStatuses"]
    assert (bad["status"]["phase"], container["state"]["waiting"]["reason"]) == (phase, reason)
    if kind == "OOMKilled":
        ended = container["lastState"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled") and container["restartCount"] > 0
    events = [event for event in still.objects("events") if event["involvedObject"]["name"] == bad["metadata"]["name"]]
    assert any(event["type"] == "Warning" for event in events)


def test_pods_that_have_no_gpu_wait_and_say_so(still: KubeServer) -> None:
    body = deployment(replicas=3)
    body["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": 4}}
    still.create(body)
    still.settle()
    waiting = [pod for pod in still.objects("pods") if not pod["spec"].get("nodeName")]
    (row,) = waiting[0]["status"]["conditions"]
    assert len(waiting) == 1 and row["reason"] == "Unschedulable"
    assert row["message"] == "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."


def test_a_denied_pod_is_quoted_up_to_the_deployment(still: KubeServer) -> None:
    still.pods.trouble("Denied", "exceeded quota: gpu, requested: 2, used: 8, limited: 8")
    still.create(deployment())
    still.settle()
    rows = still.object("deployments", "chat")["status"]["conditions"]
    (failure,) = [row for row in rows if row["type"] == "ReplicaFailure"]
    assert failure["reason"] == "FailedCreate" and "exceeded quota: gpu, requested: 2" in failure["message"]


def test_endpoint_slices_follow_selector_readiness_and_endings(still: KubeServer) -> None:
    still.create(deployment())
    still.create(service())
    still.settle()

    def endpoints() -> list[tuple[bool, bool, bool]]:
        (found,) = still.objects("endpointslices")
        assert found["metadata"]["labels"]["kubernetes.io/service-name"] == "chat"
        rows = [each["conditions"] for each in found["endpoints"]]
        return [(row["ready"], row["serving"], row["terminating"]) for row in rows]

    assert endpoints() == [(True, True, False)] * 2
    still.pods.drains_by_itself = False
    still.edit("deployments", "chat", lambda obj: obj["spec"].update(replicas=1))
    still.settle()
    assert sorted(endpoints()) == [(False, True, True), (True, True, False)]
    still.pods.drained()
    still.pods.trouble("Unready")
    still.settle()
    assert endpoints() == [(False, False, False)]
    still.edit("services", "chat", lambda obj: obj["spec"].update(selector={"app": "nobody"}))
    still.settle()
    assert endpoints() == []


def test_pods_backed_by_an_address_stand_in_the_slice_with_it(still: KubeServer) -> None:
    still.pods.address("127.0.0.1", 4711, image="repo/chat")
    still.create(deployment(replicas=1))
    still.create(service())
    still.settle()
    (found,) = still.objects("endpointslices")
    assert found["endpoints"][0]["addresses"] == ["127.0.0.1"] and found["ports"][0]["port"] == 4711


def test_a_route_is_accepted_at_its_generation_late_or_not_at_all(still: KubeServer) -> None:
    still.create(gateway())
    still.create(service())
    still.create(route("chat", ("chat", 100)))
    still.settle()

    def conditions() -> dict[str, tuple[str, str, int]]:
        (parent,) = still.object("httproutes", "chat")["status"]["parents"]
        return {row["type"]: (row["status"], row["reason"], row["observedGeneration"]) for row in parent["conditions"]}

    assert conditions() == {"Accepted": ("True", "Accepted", 1), "ResolvedRefs": ("True", "ResolvedRefs", 1)}
    still.routes.held = True
    still.edit(
        "httproutes", "chat", lambda obj: obj["spec"]["rules"][0]["backendRefs"].append({"name": "absent", "port": 80})
    )
    still.settle()
    assert conditions()["Accepted"][2] == 1 and still.object("httproutes", "chat")["metadata"]["generation"] == 2
    still.routes.held = False
    still.routes.refusal = ("NoMatchingListenerHostname", "no listener takes it")
    still.settle()
    assert conditions()["Accepted"] == ("False", "NoMatchingListenerHostname", 2)
    assert conditions()["ResolvedRefs"] == ("False", "BackendNotFound", 2)


@pytest.mark.parametrize(("policy", "left"), [("Background", 0), ("Foreground", 0), ("Orphan", 2)])
def test_deletion_takes_what_it_owns_or_leaves_it(still: KubeServer, kube_client: Any, policy: str, left: int) -> None:
    still.create(deployment())
    still.settle()
    client.AppsV1Api(kube_client).delete_namespaced_deployment("chat", "default", propagation_policy=policy)
    still.settle()
    assert not still.objects("deployments") and len(still.objects("pods")) == left
