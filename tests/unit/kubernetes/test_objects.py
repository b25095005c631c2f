"""What is applied to a cluster, and what a cluster's objects are read as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.kubernetes import http_route, objects
from adapters.kubernetes.http_route import Split
from adapters.kubernetes.pods import cannot_serve, lacks, status_of
from adapters.kubernetes.roles import Need, need_of, needs, role_lines
from adapters.kubernetes.runtime import served_by
from adapters.ports import ReplicaSetSpec
from state.config import parse_config
from state.kubernetes_config import Pods, Target
from state.words import ConfigError, OperationFailed

SPEC = ReplicaSetSpec("chat", "production", "charlm-3", "ab" * 32, Path("/bundle"), 2, {"max_batch": 4})
STABLE, CANARY = {"name": "chat-stable", "port": 8000}, {"name": "chat-canary", "port": 8000, "weight": 0}


def route(*rules: dict[str, Any], generation: int = 2) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "7", "generation": generation}, "spec": {"rules": list(rules)}}


def test_a_set_is_a_deployment_of_its_own_whose_pods_may_run_under_the_restricted_profile() -> None:
    pods = Pods(gpu=1, pod={"nodeSelector": {"gpu": "h100"}}, container={"env": [{"name": "A", "value": "1"}]})
    made = objects.deployment(SPEC, pods, "ml", "ann")
    pod = made["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert made["metadata"]["name"] == f"chat-{objects.spec_hash(SPEC)}"
    assert made["spec"]["selector"]["matchLabels"].items() <= made["spec"]["template"]["metadata"]["labels"].items()
    assert server["args"][1] == f"/models/{SPEC.digest}"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert server["env"] == [{"name": "A", "value": "1"}]
    assert pod["nodeSelector"] == {"gpu": "h100"}
    assert pod["securityContext"]["runAsNonRoot"] and not server["securityContext"]["allowPrivilegeEscalation"]
    assert pod["terminationGracePeriodSeconds"] > server["lifecycle"]["preStop"]["sleep"]["seconds"] + pods.drain
    assert made["spec"]["progressDeadlineSeconds"] > pods.start_timeout


def test_another_release_or_role_has_another_name() -> None:
    names = {
        objects.name_of(ReplicaSetSpec("chat", "production", release, "d", Path(), 1, role=role))
        for release in ("charlm-3", "charlm-4")
        for role in ("", "baseline")
    }
    assert len(names) == 4


def test_weights_change_in_every_rule_that_names_the_service_guarded_by_tests() -> None:
    other = {"name": "docs", "backendRefs": [{"name": "docs", "port": 80}]}
    before = route(
        {"name": "a", "backendRefs": [STABLE, CANARY]}, other, {"name": "b", "backendRefs": [STABLE, CANARY]}
    )
    split = Split({"stable": 90, "canary": 10})
    rules = http_route.rules_of(before["spec"]["rules"], "chat", 8000, split, may_add=False)
    operations = http_route.patch_of(before, rules)
    assert operations[0] == {"op": "test", "path": "/metadata/resourceVersion", "value": "7"}
    assert {"op": "test", "path": "/spec/rules/2/backendRefs/0/name", "value": "chat-stable"} in operations
    assert {(o["path"], o["value"]) for o in operations if o["op"] == "add"} == {
        ("/spec/rules/0/backendRefs/0/weight", 90), ("/spec/rules/0/backendRefs/1/weight", 10),
        ("/spec/rules/2/backendRefs/0/weight", 90), ("/spec/rules/2/backendRefs/1/weight", 10),
    }  # fmt: skip
    assert http_route.read(rules, "chat") == split
    assert http_route.patch_of({**before, "spec": {"rules": rules}}, rules) == []


def test_a_backend_that_git_did_not_bring_is_added_only_by_full_ownership() -> None:
    rules = [{"backendRefs": [STABLE]}]
    split = Split({"stable": 90, "canary": 10})
    with pytest.raises(OperationFailed, match="no backend chat-canary"):
        http_route.rules_of(rules, "chat", 8000, split, may_add=False)
    assert http_route.read(http_route.rules_of(rules, "chat", 8000, split, may_add=True), "chat") == split
    with pytest.raises(OperationFailed, match="names the Service chat-stable"):
        http_route.rules_of([{"backendRefs": [{"name": "x"}]}], "chat", 8000, split, may_add=True)


def test_copies_and_header_rules_come_and_go_whole() -> None:
    own = {
        "matches": [{"path": {"value": "/v1"}}],
        "filters": [{"type": "URLRewrite"}],
        "backendRefs": [STABLE, CANARY],
    }
    with_all = Split({"stable": 100}, mirror_pct=10, headers=(("x-beta", "1"),))
    rules = http_route.rules_of([own], "chat", 8000, with_all, may_add=True)
    assert http_route.read(rules, "chat") == with_all
    led, kept = rules
    assert led["matches"][0]["headers"] == [{"type": "Exact", "name": "x-beta", "value": "1"}]
    assert led["filters"] == [{"type": "URLRewrite"}], "what is led to the canary is not copied to the shadow"
    assert [f["type"] for f in kept["filters"]] == ["URLRewrite", "RequestMirror"]
    (plain,) = http_route.rules_of(rules, "chat", 8000, Split({"stable": 100}), may_add=True)
    assert plain["filters"] == [{"type": "URLRewrite"}]


def test_a_route_is_in_force_when_every_gateway_has_taken_this_generation_and_found_its_backends() -> None:
    def said(accepted: str, resolved: str, generation: int) -> dict[str, Any]:
        conditions = [
            {"type": kind, "status": status, "observedGeneration": generation, "reason": "R", "message": "m"}
            for kind, status in (("Accepted", accepted), ("ResolvedRefs", resolved))
        ]
        return {"parentRef": {"name": "edge"}, "conditions": conditions}

    def trouble(*parents: dict[str, Any]) -> str | None:
        return http_route.trouble_of({**route(), "status": {"parents": list(parents)}})

    assert trouble(said("True", "True", 2)) == ""
    assert trouble() is None
    assert trouble(said("True", "True", 1)) is None
    assert trouble(said("True", "True", 2), said("True", "False", 2)) == "gateway edge: ResolvedRefs is False: R m"


def pod(**status: Any) -> dict[str, Any]:
    labels = objects.labels_of(SPEC)
    return {"metadata": {"name": "chat-x", "labels": labels}, "status": status}


def test_a_pod_is_ready_when_it_has_an_address_says_so_and_is_not_leaving() -> None:
    ready = pod(phase="Running", podIP="10.0.0.7", conditions=[{"type": "Ready", "status": "True"}])
    seen = status_of(ready, 8000)
    assert (seen.address, seen.is_ready, seen.release_id) == ("http://10.0.0.7:8000", True, "charlm-3")
    ready["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert not status_of(ready, 8000).is_ready and not status_of(ready, 8000).is_wanted


LATE = {"status": {"conditions": [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded",
                                   "message": "timed out"}]}}  # fmt: skip


@pytest.mark.parametrize(
    ("waiting", "last", "said"),
    [
        ("CrashLoopBackOff", {"reason": "Error", "exitCode": 1}, "chat-x crashed 3 times (CrashLoopBackOff: Error, exit 1)"),
        ("CrashLoopBackOff", {"reason": "OOMKilled", "exitCode": 137},
         "chat-x crashed 3 times (CrashLoopBackOff: OOMKilled, exit 137)"),
        ("", {"reason": "OOMKilled", "exitCode": 137}, "chat-x crashed 3 times (OOMKilled, exit 137)"),
        ("CreateContainerConfigError", {}, "chat-x: CreateContainerConfigError: m"),
    ],
)  # fmt: skip
def test_a_set_that_fails_by_itself_is_told_with_its_cause(waiting: str, last: dict[str, Any], said: str) -> None:
    state = {"waiting": {"reason": waiting, "message": "m"}} if waiting else {"running": {}}
    one = {"state": state, "restartCount": 3, "lastState": {"terminated": last} if last else {}}
    assert (cannot_serve(None, [pod(containerStatuses=[one])]), lacks(None, [pod(containerStatuses=[one])])) == (
        said,
        None,
    )


def test_what_the_cluster_does_not_have_is_no_fault_of_the_set() -> None:
    waits = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such tag"}}, "restartCount": 0}
    no_image = [pod(containerStatuses=[waits])]
    assert (cannot_serve(LATE, no_image), lacks(None, no_image)) == (None, "chat-x: ImagePullBackOff: no such tag")
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no gpu",
                 "lastTransitionTime": "2026-01-01T00:00:00Z"}  # fmt: skip
    pending, made = [pod(conditions=[condition])], 1767225600.0
    said = "chat-x: FailedScheduling (Unschedulable): no gpu"
    assert lacks(None, pending, made + 100) is None, "a node may still come"
    assert lacks(None, pending, made + 121) == said
    assert (lacks(LATE, pending, made), cannot_serve(LATE, pending)) == (said, None)
    quota = {
        "status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: gpus"}]}
    }
    assert (lacks(quota, []), cannot_serve(quota, [])) == ("pods may not be made: exceeded quota: gpus", None)
    assert cannot_serve(LATE, [pod()]) == "ProgressDeadlineExceeded: timed out"


def test_each_ownership_needs_no_more_than_it_writes() -> None:
    def verbs(ownership: str) -> set[str]:
        target = Target(runtime="kubernetes", namespace="ml", traffic="httproute", ownership=ownership)  # type: ignore[arg-type]
        return {str(need) for need in needs(target)}

    assert not {one for one in verbs("observe") if one.startswith("patch")}
    routes = "patch httproutes (gateway.networking.k8s.io)"
    assert routes in verbs("weights") and "create deployments (apps)" not in verbs("weights")
    assert "create deployments (apps)" in verbs("full")


def test_what_is_lacking_is_said_as_the_rule_that_a_role_needs() -> None:
    scale = need_of("patch", "/apis/apps/v1/namespaces/ml/deployments/chat-1/scale")
    assert scale == Need("apps", "deployments", "patch", "scale")
    assert need_of("list", "/api/v1/namespaces/ml/pods") == Need("", "pods", "list")
    assert need_of("get", "/api/v1/nodes") is None
    assert role_lines([scale, Need("", "pods", "get"), Need("", "pods", "list")]) == [
        '- { apiGroups: ["apps"], resources: [deployments/scale], verbs: [patch] }',
        '- { apiGroups: [""], resources: [pods], verbs: [get, list] }',
    ]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ('[environment.p]\ntargets = [{ runtime = "kubernetes" }]', "needs namespace"),
        ('[environment.p]\ntargets = [{ namespace = "ml" }]', "for runtime"),
        ('[service.chat.kubernetes]\nargs = ["{model}"]', "names 'model'"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(lines: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(lines, Path("airboss.toml"))


def test_what_the_gateway_served_before_a_restart_is_served_until_the_cluster_answers() -> None:
    backend = {
        "track": "stable",
        "release_id": "charlm-3",
        "weight": 100,
        "replicas": [["chat-x", "http://10.0.0.7:8000"]],
    }
    table = {"routes": [{"service": "chat", "env": env, "backends": [backend]} for env in ("production", "dev")]}
    (seen,) = served_by(table, "production")
    assert (seen.service, seen.address, seen.is_ready) == ("chat", "http://10.0.0.7:8000", True)
