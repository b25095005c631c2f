"""The test API server as the official client meets it: objects, versions, patches, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kube.server import KubeServer
from kube_things import config_map, deployment, refused, service
from kubernetes import client


def test_what_is_read_back_has_an_identity_and_the_defaults_of_a_real_server(
    kube: KubeServer, kube_client: Any
) -> None:
    apps = client.AppsV1Api(kube_client)
    made = apps.create_namespaced_deployment("default", deployment())
    assert made.metadata.uid and made.metadata.creation_timestamp and made.metadata.generation == 1
    assert made.spec.strategy.rolling_update.max_surge == "25%" and made.spec.progress_deadline_seconds == 600
    assert made.spec.template.spec.containers[0].image_pull_policy == "IfNotPresent"
    assert made.status.replicas is None
    code, status = refused(apps.create_namespaced_deployment, "default", deployment())
    assert (code, status["reason"]) == (409, "AlreadyExists")
    assert status["message"] == 'deployments.apps "chat" already exists'
    code, status = refused(apps.read_namespaced_deployment, "absent", "default")
    assert (code, status["message"]) == (404, 'deployments.apps "absent" not found')
    code, status = refused(apps.create_namespaced_deployment, "nowhere", deployment())
    assert (code, status["message"]) == (404, 'namespaces "nowhere" not found')


def test_a_write_with_an_old_version_is_a_conflict(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    first = core.create_namespaced_config_map("default", config_map(a="1"))
    first.data = {"a": "2"}
    second = core.replace_namespaced_config_map("settings", "default", first)
    assert int(second.metadata.resource_version) > int(first.metadata.resource_version)
    code, status = refused(core.replace_namespaced_config_map, "settings", "default", first)
    assert (code, status["reason"]) == (409, "Conflict")
    assert "the object has been modified; please apply your changes to the latest version" in status["message"]
    stale = {"metadata": {"resourceVersion": first.metadata.resource_version}, "data": {"a": "3"}}
    assert refused(core.patch_namespaced_config_map, "settings", "default", stale)[0] == 409
    assert kube.object("configmaps", "settings")["data"] == {"a": "2"}


def test_a_write_that_changes_nothing_makes_no_version(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    made = core.create_namespaced_config_map("default", config_map(a="1"))
    again = core.patch_namespaced_config_map("settings", "default", {"data": {"a": "1"}})
    assert again.metadata.resource_version == made.metadata.resource_version


def test_only_the_spec_moves_the_generation_and_only_status_moves_the_status(
    kube: KubeServer, kube_client: Any
) -> None:
    kube.automatic = False
    apps = client.AppsV1Api(kube_client)
    apps.create_namespaced_deployment("default", deployment())
    labelled = apps.patch_namespaced_deployment(
        "chat", "default", {"metadata": {"labels": {"team": "a"}}, "status": {"replicas": 9}}
    )
    assert labelled.metadata.generation == 1 and labelled.status.replicas is None
    scaled = apps.patch_namespaced_deployment("chat", "default", {"spec": {"replicas": 5}})
    assert scaled.metadata.generation == 2
    told = apps.patch_namespaced_deployment_status(
        "chat", "default", {"spec": {"replicas": 7}, "status": {"replicas": 4}}
    )
    assert (told.spec.replicas, told.status.replicas, told.metadata.generation) == (5, 4, 2)


def test_the_scale_subresource_reads_and_writes_the_replicas(kube: KubeServer, kube_client: Any) -> None:
    apps = client.AppsV1Api(kube_client)
    apps.create_namespaced_deployment("default", deployment())
    scale = apps.patch_namespaced_deployment_scale("chat", "default", {"spec": {"replicas": 3}})
    assert scale.spec.replicas == 3 and apps.read_namespaced_deployment("chat", "default").spec.replicas == 3


def test_a_json_patch_whose_test_fails_is_a_422_and_changes_nothing(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    made = core.create_namespaced_service("default", service(slot="blue"))
    path = "/spec/selector/slot"
    good = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": made.metadata.resource_version},
        {"op": "test", "path": path, "value": "blue"},
        {"op": "replace", "path": path, "value": "green"},
    ]
    assert core.patch_namespaced_service("chat", "default", good).spec.selector == {"slot": "green"}
    code, status = refused(core.patch_namespaced_service, "chat", "default", good)
    assert (code, status["reason"]) == (422, "Invalid")
    assert kube.object("services", "chat")["spec"]["selector"] == {"slot": "green"}


def test_a_strategic_merge_joins_containers_and_their_environment_by_name(kube: KubeServer, kube_client: Any) -> None:
    apps = client.AppsV1Api(kube_client)
    apps.create_namespaced_deployment("default", deployment())
    container = {"name": "app", "env": [{"name": "A", "value": "1"}]}
    for env in ([{"name": "A", "value": "1"}], [{"name": "B", "value": "2"}], [{"name": "A", "$patch": "delete"}]):
        body = {"spec": {"template": {"spec": {"containers": [{**container, "env": env}]}}}}
        patched = apps.patch_namespaced_deployment("chat", "default", body)
    (app,) = patched.spec.template.spec.containers
    assert app.image == "repo/chat:1" and [(each.name, each.value) for each in app.env] == [("B", "2")]


def test_a_merge_patch_replaces_a_list_whole_and_a_custom_resource_takes_no_strategic_one(
    kube: KubeServer, kube_client: Any
) -> None:
    custom = client.CustomObjectsApi(kube_client)
    rollout = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "chat"},
        "spec": {"steps": [1, 2]},
    }
    where = ("argoproj.io", "v1alpha1", "default", "rollouts")
    custom.create_namespaced_custom_object(*where, rollout)
    merged = custom.patch_namespaced_custom_object(
        *where, "chat", {"spec": {"steps": [3]}}, _content_type="application/merge-patch+json"
    )
    assert merged["spec"]["steps"] == [3] and merged["metadata"]["generation"] == 2
    strategic = "application/strategic-merge-patch+json"
    code, _ = refused(custom.patch_namespaced_custom_object, *where, "chat", {"spec": {}}, _content_type=strategic)
    assert code == 415


@pytest.mark.parametrize(
    ("body", "code", "said"),
    [
        (deployment("Chat"), 422, "metadata.name: Invalid value"),
        (deployment(image=""), 422, "spec.template.spec.containers[0].image: Required value"),
        (deployment(selector={"matchLabels": {"app": "other"}}), 422, "`selector` does not match template `labels`"),
        (deployment(replicas=-1), 422, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ({**deployment(), "spec": {**deployment()["spec"], "replicas": "two"}}, 400, "json: cannot unmarshal string"),
    ],
)
def test_what_is_invalid_is_refused_with_its_field(
    kube: KubeServer, kube_client: Any, body: Any, code: int, said: str
) -> None:
    post = client.CustomObjectsApi(kube_client).create_namespaced_custom_object
    got, status = refused(post, "apps", "v1", "default", "deployments", body)
    assert got == code and said in status["message"]
    assert not kube.objects("deployments")


def test_what_may_not_change_does_not(kube: KubeServer, kube_client: Any) -> None:
    core, apps = client.CoreV1Api(kube_client), client.AppsV1Api(kube_client)
    core.create_namespaced_config_map("default", config_map(immutable=True, a="1"))
    code, status = refused(core.patch_namespaced_config_map, "settings", "default", {"data": {"a": "2"}})
    assert code == 422 and status["details"]["causes"][0]["field"] == "data"
    assert "field is immutable when `immutable` is set" in status["message"]
    apps.create_namespaced_deployment("default", deployment())
    body = {"spec": {"selector": {"matchLabels": {"app": "b"}}, "template": {"metadata": {"labels": {"app": "b"}}}}}
    code, status = refused(apps.patch_namespaced_deployment, "chat", "default", body)
    assert code == 422 and "field is immutable" in status["message"]


def test_a_dry_run_answers_like_the_write_and_keeps_nothing(kube: KubeServer, kube_client: Any) -> None:
    apps = client.AppsV1Api(kube_client)
    made = apps.create_namespaced_deployment("default", deployment(), dry_run="All")
    assert made.spec.revision_history_limit == 10 and not kube.objects("deployments")
    assert refused(apps.create_namespaced_deployment, "default", deployment("Chat"), dry_run="All")[0] == 422


def test_lists_take_selectors_and_come_in_pages_of_one_moment(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    for n in range(5):
        body = config_map(f"m{n}")
        body["metadata"]["labels"] = {"odd": str(n % 2), "n": str(n)}
        core.create_namespaced_config_map("default", body)

    def names(**query: Any) -> list[str]:
        return [each.metadata.name for each in core.list_namespaced_config_map("default", **query).items]

    assert names(label_selector="odd=1") == ["m1", "m3"]
    assert names(label_selector="n in (0,4),odd!=1") == ["m0", "m4"] and names(label_selector="!odd") == []
    assert names(field_selector="metadata.name=m2") == ["m2"]
    first = core.list_namespaced_config_map("default", limit=2)
    core.delete_namespaced_config_map("m3", "default")
    second = core.list_namespaced_config_map("default", limit=10, _continue=first.metadata._continue)
    assert [each.metadata.name for each in second.items] == ["m2", "m3", "m4"]
    kube.store.forget()
    code, status = refused(core.list_namespaced_config_map, "default", limit=2, _continue=first.metadata._continue)
    assert (code, status["reason"]) == (410, "Expired")


def test_a_delete_holds_to_its_preconditions(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    made = core.create_namespaced_config_map("default", config_map())
    other = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid="not-it"))
    assert refused(core.delete_namespaced_config_map, "settings", "default", body=other)[0] == 409
    mine = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=made.metadata.uid))
    core.delete_namespaced_config_map("settings", "default", body=mine)
    assert not kube.objects("configmaps")


def test_the_cluster_says_what_it_is_and_what_it_lacks(kube_client: Any) -> None:
    assert client.VersionApi(kube_client).get_code().minor == "36"
    groups = {group.name for group in client.ApisApi(kube_client).get_api_versions().groups}
    assert {"apps", "gateway.networking.k8s.io", "argoproj.io"} <= groups
    rows = client.CustomObjectsApi(kube_client).get_api_resources("gateway.networking.k8s.io", "v1").resources
    assert "httproutes/status" in {row.name for row in rows}
    bare = KubeServer(without=["argoproj.io"])
    bare.start()
    configuration = client.Configuration(host=bare.url)
    configuration.api_key = {"authorization": "Bearer admin-token"}
    with client.ApiClient(configuration) as other, pytest.raises(client.exceptions.ApiException) as caught:
        client.CustomObjectsApi(other).get_api_resources("argoproj.io", "v1alpha1")
    bare.stop()
    assert caught.value.status == 404


def test_every_request_is_in_the_log_as_it_was_sent(kube: KubeServer, kube_client: Any) -> None:
    core = client.CoreV1Api(kube_client)
    core.create_namespaced_config_map("default", config_map(a="1"), field_manager="airboss")
    (write,) = kube.requests.writes("configmaps")
    assert (write.method, write.path, write.query["fieldManager"]) == (
        "POST",
        "/api/v1/namespaces/default/configmaps",
        "airboss",
    )
    assert (write.user, write.status) == ("kubernetes-admin", 201)
    assert write.body["data"] == {"a": "1"} and json.loads(write.raw) == write.body
