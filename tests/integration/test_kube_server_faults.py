"""Faults and access of the test API server: what a client meets when things go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from kube.access import Rule
from kube.faults import Fault
from kube.server import KubeServer
from kube_things import config_map, refused
from kubernetes import client, config

MAPS = "/api/v1/namespaces/default/configmaps"


def plain(kube: KubeServer, token: str = "admin-token") -> httpx.Client:
    """A client without retries of its own."""
    return httpx.Client(base_url=kube.url, headers={"Authorization": f"Bearer {token}"}, trust_env=False, timeout=10)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (409, "Conflict"),
        (422, "Invalid"),
        (429, "TooManyRequests"),
        (500, "InternalError"),
        (503, "ServiceUnavailable"),
        (410, "Expired"),
    ],
)
def test_an_error_by_script_meets_so_many_requests_and_no_write_is_made(
    kube: KubeServer, code: int, reason: str
) -> None:
    fault = kube.fail(code, "POST", "configmaps", times=2, retry_after_s=3)
    with plain(kube) as http:
        answers = [http.post(MAPS, json=config_map()) for _ in range(3)]
        assert http.get(MAPS).status_code == 200
    assert [answer.status_code for answer in answers] == [code, code, 201] and fault.hits == 2
    assert answers[0].json()["reason"] == reason
    assert answers[0].headers.get("Retry-After") == ("3" if code == 429 else None)


@pytest.mark.parametrize(("when", "kept"), [("before", 0), ("after", 1)])
def test_a_connection_is_cut_before_or_after_the_write(kube: KubeServer, when: str, kept: int) -> None:
    kube.reset(when, "POST", "configmaps")
    with plain(kube) as http, pytest.raises(httpx.TransportError):
        http.post(MAPS, json=config_map())
    assert len(kube.objects("configmaps")) == kept


def test_half_a_body_latency_and_a_page_that_is_no_json(kube: KubeServer) -> None:
    kube.create(config_map(a="1"))
    kube.faults.add(Fault("GET", "configmaps", half_body=True))
    with plain(kube) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(MAPS)
        kube.faults.add(Fault("GET", "configmaps", raw="<html>log in</html>"))
        assert http.get(MAPS).headers["Content-Type"].startswith("text/html")
        kube.faults.add(Fault("GET", "configmaps", latency_s=5))
        with pytest.raises(httpx.ReadTimeout):
            http.get(MAPS, timeout=0.05)


def test_a_watch_is_cut_in_the_middle_of_a_line(kube: KubeServer) -> None:
    kube.create(config_map("one"))
    kube.create(config_map("two"))
    kube.faults.add(Fault("GET", "watch=1", cut_watch_after=1, half_body=True))
    parts: list[bytes] = []
    with plain(kube) as http, http.stream("GET", f"{MAPS}?watch=1") as answer, pytest.raises(httpx.RemoteProtocolError):
        parts.extend(answer.iter_raw())
    got = b"".join(parts)
    assert got.count(b"\n") == 1 and not got.endswith(b"\n")


def test_a_token_may_do_what_its_rules_say_and_reviews_agree(kube: KubeServer, tmp_path: Path) -> None:
    kube.access.grant("ann-token", "ann", [Rule(["get", "list"], ["deployments"], ["apps"], ["default"])])
    configuration = client.Configuration()
    path = kube.kubeconfig(tmp_path / "ann", token="ann-token")
    config.load_kube_config(str(path), client_configuration=configuration, persist_config=False)

    def may(api: Any, verb: str) -> bool:
        attributes = {"verb": verb, "group": "apps", "resource": "deployments", "namespace": "default"}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool(client.AuthorizationV1Api(api).create_self_subject_access_review(body).status.allowed)

    with client.ApiClient(configuration) as api:
        apps = client.AppsV1Api(api)
        assert apps.list_namespaced_deployment("default").items == [] and may(api, "list") and not may(api, "patch")
        code, status = refused(apps.patch_namespaced_deployment, "chat", "default", {"spec": {"replicas": 1}})
        assert (code, status["message"]) == (
            403,
            'deployments.apps "chat" is forbidden: User "ann" cannot patch resource "deployments" in API group "apps" in the namespace "default"',
        )
        kube.access.expire("ann-token")
        assert refused(apps.list_namespaced_deployment, "default")[0] == 401
