"""Server-side apply and watches of the test API server, through the official client."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest
from kube.server import KubeServer
from kube_things import config_map, deployment, refused
from kubernetes import client, watch

APPLY = "application/apply-patch+yaml"


def apply(kube_client: Any, body: Any, manager: str, **query: Any) -> Any:
    """Apply a Deployment as `manager`."""
    name = body["metadata"]["name"]
    patch = client.AppsV1Api(kube_client).patch_namespaced_deployment
    return patch(name, "default", body, field_manager=manager, _content_type=APPLY, **query)


def test_an_apply_creates_and_names_the_owner_of_every_field(kube: KubeServer, kube_client: Any) -> None:
    kube.automatic = False
    apply(kube_client, deployment(), "console", force=False)
    (row,) = kube.object("deployments", "chat")["metadata"]["managedFields"]
    assert (row["manager"], row["operation"], row["apiVersion"]) == ("console", "Apply", "apps/v1")
    template = row["fieldsV1"]["f:spec"]["f:template"]["f:spec"]
    assert template["f:containers"]['k:{"name":"app"}']["f:image"] == {} and "f:replicas" in row["fieldsV1"]["f:spec"]
    assert "f:dnsPolicy" not in template
    assert kube.requests.writes()[-1].content_type == APPLY


def test_an_apply_over_anothers_field_names_the_owner_and_writes_nothing(kube: KubeServer, kube_client: Any) -> None:
    apply(kube_client, deployment(), "argocd-controller")
    code, status = refused(apply, kube_client, deployment(image="repo/chat:2"), "console")
    field = '.spec.template.spec.containers[name="app"].image'
    assert (code, status["reason"]) == (409, "Conflict")
    assert status["message"] == f'Apply failed with 1 conflict: conflict with "argocd-controller": {field}'
    assert status["details"]["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "argocd-controller"', "field": field}
    ]
    kube.edit("deployments", "chat", lambda obj: obj["spec"].update(replicas=4), manager="kubectl-edit")
    code, status = refused(apply, kube_client, deployment(image="repo/chat:2", replicas=3), "console")
    assert "Apply failed with 2 conflicts: " in status["message"]
    assert 'conflicts with "kubectl-edit" using apps/v1:\n- .spec.replicas' in status["message"]
    assert kube.object("deployments", "chat")["spec"]["replicas"] == 4


def test_a_forced_apply_takes_the_field_over_and_equal_values_are_shared(kube: KubeServer, kube_client: Any) -> None:
    apply(kube_client, deployment(), "argocd")
    apply(kube_client, deployment(), "console")
    forced = apply(kube_client, deployment(image="repo/chat:2"), "console", force=True)
    assert forced.spec.template.spec.containers[0].image == "repo/chat:2"
    code, _ = refused(apply, kube_client, deployment(image="repo/chat:3"), "argocd")
    assert code == 409


def test_what_an_applier_lists_no_more_is_removed_unless_another_owns_it(kube: KubeServer, kube_client: Any) -> None:
    first = deployment()
    first["metadata"]["labels"] = {"mine": "1", "shared": "1"}
    first["spec"]["template"]["spec"]["containers"].append({"name": "side", "image": "side:1"})
    apply(kube_client, first, "console")
    other = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "chat", "labels": {"shared": "1"}}}
    apply(kube_client, other, "other")
    kube.edit("deployments", "chat", lambda obj: obj["metadata"]["labels"].update(foreign="1"))
    second = deployment()
    del second["spec"]["replicas"]
    after = apply(kube_client, second, "console")
    assert after.metadata.labels == {"shared": "1", "foreign": "1"}
    assert [each.name for each in after.spec.template.spec.containers] == ["app"]
    assert after.spec.replicas == 1, "a field that nobody sets has its default again"


def test_the_same_apply_again_makes_no_version(kube: KubeServer, kube_client: Any) -> None:
    kube.automatic = False
    first = apply(kube_client, deployment(), "console")
    again = apply(kube_client, deployment(), "console")
    assert again.metadata.resource_version == first.metadata.resource_version


def test_an_apply_needs_a_manager_and_takes_a_dry_run(kube: KubeServer, kube_client: Any) -> None:
    assert apply(kube_client, deployment(), "console", dry_run="All").spec.replicas == 2
    assert not kube.objects("deployments")
    headers = {"Authorization": "Bearer admin-token", "Content-Type": APPLY}
    url = f"{kube.url}/apis/apps/v1/namespaces/default/deployments/chat"
    answer = httpx.patch(url, content=json.dumps(deployment()), headers=headers, trust_env=False)
    assert answer.status_code == 422 and "is required for apply patch" in answer.json()["message"]


def test_a_watch_tells_every_change_after_a_version(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    version = core.list_namespaced_config_map("default").metadata.resource_version
    core.create_namespaced_config_map("default", config_map(a="1"))
    core.patch_namespaced_config_map("settings", "default", {"data": {"a": "2"}})
    core.delete_namespaced_config_map("settings", "default")
    stream = watch.Watch().stream(
        core.list_namespaced_config_map, "default", resource_version=version, timeout_seconds=1
    )
    seen = [(event["type"], (event["object"].data or {}).get("a")) for event in stream]
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]


def test_an_object_that_leaves_the_selection_is_deleted_for_the_watch(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    body = config_map()
    body["metadata"]["labels"] = {"track": "canary"}
    core.create_namespaced_config_map("default", body)
    version = kube.store.version
    core.patch_namespaced_config_map("settings", "default", {"metadata": {"labels": {"track": "stable"}}})
    query = {"resource_version": str(version), "timeout_seconds": 1, "label_selector": "track=canary"}
    stream = watch.Watch().stream(core.list_namespaced_config_map, "default", **query)
    assert [event["type"] for event in stream] == ["DELETED"]


def test_a_watch_from_before_the_window_ends_with_410_in_the_stream(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    kube.create(config_map())
    kube.store.forget()
    stream = watch.Watch().stream(core.list_namespaced_config_map, "default", resource_version="5", timeout_seconds=5)
    with pytest.raises(client.exceptions.ApiException) as caught:
        list(stream)
    assert caught.value.status == 410
    assert "too old resource version: 5" in str(caught.value.reason)


def test_a_live_watch_has_bookmarks_and_can_be_cut(kube: KubeServer) -> None:
    url = f"{kube.url}/api/v1/namespaces/default/configmaps?watch=1&allowWatchBookmarks=true&resourceVersion={kube.store.version}"
    lines: list[dict[str, Any]] = []
    first = threading.Event()

    def follow() -> None:
        headers = {"Authorization": "Bearer admin-token"}
        with httpx.stream("GET", url, headers=headers, trust_env=False, timeout=10) as answer:
            for line in answer.iter_lines():
                lines.append(json.loads(line))
                first.set()

    reader = threading.Thread(target=follow)
    reader.start()
    kube.wait_for(lambda: kube.watches.open == 1, "the watch is open")
    kube.create(config_map())
    assert first.wait(10)
    kube.watches.bookmark()
    kube.wait_for(lambda: len(lines) == 2, "the bookmark arrives")
    kube.watches.cut()
    reader.join(10)
    assert not reader.is_alive() and [line["type"] for line in lines] == ["ADDED", "BOOKMARK"]
    assert int(lines[1]["object"]["metadata"]["resourceVersion"]) >= int(
        lines[0]["object"]["metadata"]["resourceVersion"]
    )
