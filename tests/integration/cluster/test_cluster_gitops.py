"""A cluster whose objects Git keeps: a rollout that self-heal would take back is refused before its first write."""

from __future__ import annotations

from typing import Any

import pytest
from kube_room import ROUTED, KubeRoom, Make
from kube_things import deployment

from adapters.kubernetes import objects
from engine.observe.conditions import Facts
from engine.observe.facts import rolled_back_in_git
from engine.observe.rules import firing
from engine.operations.git_check import git_facts
from state.models import Rollout
from state.words import Denied

IGNORED = [
    {"group": "apps", "kind": "Deployment", "jsonPointers": ["/spec/replicas"]},
    {"group": "", "kind": "Service", "managedFieldsManagers": ["airboss"]},
    {
        "group": "gateway.networking.k8s.io", "kind": "HTTPRoute",
        "jqPathExpressions": [".spec.rules[].backendRefs[].weight"],
    },
]  # fmt: skip


def kept(room: KubeRoom, annotations: dict[str, str] | None = None, labels: dict[str, str] | None = None) -> None:
    """The Service of the stable track, as Git has it."""
    meta: dict[str, Any] = {"name": "chat-stable", "labels": labels or {}, "annotations": annotations or {}}
    spec = {"selector": {objects.HASH: "00000000"}, "ports": [{"name": "http", "port": 8000}]}
    room.kube.create(
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}, manager="argocd-controller"
    )


def application(room: KubeRoom, **spec: Any) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "argocd"}}
    room.kube.create(namespace)
    policy = {"automated": {"selfHeal": True}, "syncOptions": ["RespectIgnoreDifferences=true"]}
    room.kube.create(
        {
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Application",
            "metadata": {"name": "shop", "namespace": "argocd"}, "spec": {"syncPolicy": policy, **spec},
        },
        namespace="argocd",
        manager="argocd-controller",
    )  # fmt: skip


TRACKED = {"argocd.argoproj.io/tracking-id": "shop:/Service:default/chat-stable"}


async def test_what_argo_cd_heals_is_refused_with_the_lines_to_write_and_nothing_is_written(make: Make) -> None:
    async with make(target=ROUTED) as room:
        kept(room, TRACKED)
        application(room)
        room.kube.requests.clear()
        with pytest.raises(Denied) as caught:
            await room.deploy("a")
        assert (
            "Service chat-stable is kept by Argo CD (Application shop), which heals /spec/selector"
            in caught.value.message
        )
        assert '- { group: "", kind: Service, jsonPointers: [/spec/selector] }' in caught.value.hint
        assert room.written() == []
        planned = await room.deploy("a", dry_run=True)
        assert any("Git would take it back" in said for said in planned.plan.warnings)


@pytest.mark.parametrize(
    ("spec", "is_let"),
    [
        ({"ignoreDifferences": IGNORED}, True),
        ({"syncPolicy": {}}, True),
        ({"ignoreDifferences": IGNORED, "syncPolicy": {"automated": {"selfHeal": True}}}, False),
        ({"ignoreDifferences": [{**IGNORED[1], "name": "another"}]}, False),
    ],
)
async def test_an_application_that_leaves_the_field_alone_lets_a_rollout_begin(
    make: Make, spec: dict[str, Any], is_let: bool
) -> None:
    async with make(target=ROUTED) as room:
        kept(room, TRACKED)
        application(room, **spec)
        if is_let:
            assert (await room.deploy("a")).changed
        else:
            with pytest.raises(Denied):
                await room.deploy("a")


@pytest.mark.parametrize(
    ("notes", "is_let"), [({}, False), ({"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}, True)]
)
async def test_flux_writes_anew_unless_the_object_says_no(make: Make, notes: dict[str, str], is_let: bool) -> None:
    labels = {"kustomize.toolkit.fluxcd.io/name": "apps", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}
    async with make(target=ROUTED) as room:
        kept(room, notes, labels)
        if is_let:
            assert (await room.deploy("a")).changed
        else:
            with pytest.raises(Denied, match="kept by Flux"):
                await room.deploy("a")


async def test_agreed_is_taken_at_its_word(make: Make) -> None:
    async with make(target=f'{ROUTED}, gitops = "agreed"') as room:
        kept(room, TRACKED)
        assert (await room.deploy("a")).changed


async def test_what_was_copied_from_a_tracked_object_is_not_argo_cds(make: Make) -> None:
    async with make(target=ROUTED) as room:
        kept(room, {"argocd.argoproj.io/tracking-id": "shop:/Service:default/another"})
        assert (await room.deploy("a")).changed


async def test_a_release_that_was_rolled_back_stays_an_alert_until_git_lets_it_go(make: Make) -> None:
    room = make(target=ROUTED)
    name = objects.name_of(room.spec("b"))
    made = deployment(name)
    made["metadata"]["labels"] = objects.labels_of(room.spec("b"))
    made["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": f"shop:apps/Deployment:default/{name}"}
    room.kube.create(made, manager="argocd-controller")
    async with room:

        def alerts() -> list[str]:
            facts = room.store.read_now(lambda s: rolled_back_in_git(s, git_facts({"production": room.cluster})))
            return [one.summary for one in firing(Facts(0.0, kept_in_git=facts)) if one.name == "GitStillSays"]

        assert alerts() == [], "nobody has rolled it back"
        room.store.write_now(lambda s: s.add(_rolled_back()))
        (said,) = alerts()
        assert "Git still says b" in said and "Argo CD (Application shop)" in said
        assert f"name: {name}, namespace: default }}, spec: {{ replicas: 0 }}" in said
        room.kube.edit("deployments", name, lambda one: one["metadata"].pop("annotations"))
        await room.holds(lambda: alerts() == [], "Git has let it go")


def _rolled_back() -> Rollout:
    return Rollout(
        id="ro-9", service="chat", env="production", target="default", strategy="canary", from_release="a", to_release="b",
        state="rolled_back", created_by="user:ann", created_at=1.0, state_since=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "is_let"),
    [
        ({"canary": {"canaryService": "chat-canary", "stableService": "chat-stable"}}, False),
        ({"canary": {"trafficRouting": {"plugins": {"argoproj-labs/gatewayAPI": {"httpRoute": "chat"}}}}}, False),
        ({"blueGreen": {"activeService": "other-stable"}}, True),
    ],
)
async def test_what_argo_rollouts_moves_is_not_fought(make: Make, strategy: dict[str, Any], is_let: bool) -> None:
    async with make(target=ROUTED) as room:
        room.kube.create(
            {
                "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "chat"},
                "spec": {"strategy": strategy}, "status": {"phase": "Paused"},
            }
        )  # fmt: skip
        room.kube.requests.clear()
        if is_let:
            assert (await room.deploy("a")).changed
        else:
            with pytest.raises(Denied, match="is moved by the Rollout chat of Argo Rollouts"):
                await room.deploy("a")
            assert room.written() == []
            assert any("Argo Rollouts" in said for said in (await room.deploy("a", dry_run=True)).plan.warnings)
