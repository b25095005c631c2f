"""Others' autoscalers beside a rollout: their floors rise before a release has traffic, and are as they were at the end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from kube_room import CANARY, KubeRoom, Make

from adapters.kubernetes import objects
from adapters.kubernetes.floors import BEFORE, PAUSED
from state.words import RolloutState

S = RolloutState
FIELD = {"horizontalpodautoscalers": "minReplicas", "scaledobjects": "minReplicaCount"}


def autoscaler(room: KubeRoom, release: str, plural: str) -> dict[str, Any]:
    """One for the release's Deployment, with a floor of 1."""
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": objects.name_of(room.spec(release))}
    meta = {"name": f"auto-{release}"}
    if plural == "scaledobjects":
        spec: dict[str, Any] = {"scaleTargetRef": target, "minReplicaCount": 1, "maxReplicaCount": 8, "triggers": []}
        return {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": meta, "spec": spec}
    spec = {"scaleTargetRef": target, "minReplicas": 1, "maxReplicas": 8, "metrics": []}
    return {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": meta, "spec": spec}


def floor(room: KubeRoom, release: str, plural: str) -> int:
    return int(room.kube.object(plural, f"auto-{release}")["spec"][FIELD[plural]])


def notes(room: KubeRoom, release: str, plural: str) -> dict[str, str]:
    return dict(room.kube.object(plural, f"auto-{release}")["metadata"].get("annotations") or {})


@pytest.mark.parametrize("plural", FIELD)
async def test_floors_rise_before_traffic_and_are_given_back_at_the_end(make: Make, plural: str) -> None:
    async with make(CANARY.replace("{ weight = 50 }, ", "")) as room:
        await room.rolled_out("a")
        for release in "ab":
            room.kube.create(autoscaler(room, release, plural))
        room.counts.canary = (0, 0)
        room.kube.requests.clear()
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        await room.comes_to(rollout_id, S.STEP_BAKING)
        await room.holds(lambda: floor(room, "a", plural) == 2, "what one returns to keeps its pods")
        assert (floor(room, "b", plural), notes(room, "b", plural)[BEFORE]) == (2, "1")
        order = [line.split()[1] for line in room.written()]
        assert order.index(f"{plural}/auto-b") < order.index("httproutes/chat"), "capacity before traffic"
        room.counts.canary = (4000, 0)
        await room.comes_to(rollout_id, S.COMPLETED)
        await room.holds(lambda: floor(room, "b", plural) == 1, "the new release's own floor again")
        assert BEFORE not in notes(room, "b", plural)
        assert floor(room, "a", plural) == 2, "kept warm: it is the way back"


async def test_a_floor_is_given_back_by_the_engine_that_comes_after_a_crash(make: Make) -> None:
    plural = "horizontalpodautoscalers"
    room = make()
    await room.begin()
    await room.rolled_out("a")
    room.kube.create(autoscaler(room, "b", plural))
    room.counts.canary = (0, 0)
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    await room.comes_to(rollout_id, S.STEP_BAKING)
    await room.end()
    assert floor(room, "b", plural) == 2
    room.start()
    async with room:
        await room.ask("rollback", f"rollout/{rollout_id}")
        await room.comes_to(rollout_id, S.ROLLED_BACK)
        await room.holds(lambda: floor(room, "b", plural) == 1, "as it was")
        assert notes(room, "b", plural) == {}


async def test_what_was_decided_before_pods_were_asked_for_takes_no_floor_from_them(make: Make) -> None:
    """The engine reads what to hold, a rollout begins and asks for its pods, and only then is what was read carried out."""
    plural = "horizontalpodautoscalers"
    room = make()
    runtime = room.runtime.clusters["production"]
    await room.runtime.ensure(replace(room.spec("a"), replicas=2))
    await room.cluster.deployments.fill()
    room.kube.create(autoscaler(room, "a", plural))
    moves = runtime.floors.moves
    room.kube.fail(409, "PATCH", plural)
    await runtime.floors.follow(objects.name_of(room.spec("a")), 2)
    assert floor(room, "a", plural) == 2, "one that has moved meanwhile is read again"
    await runtime.hold_floors({}, moves)
    assert floor(room, "a", plural) == 2
    await runtime.hold_floors({}, runtime.floors.moves)
    assert (floor(room, "a", plural), notes(room, "a", plural)) == (1, {})
    await room.cluster.client.close()


async def test_keda_does_not_bring_a_withdrawn_release_back(make: Make) -> None:
    async with make() as room:
        await room.rolled_out("a")
        room.kube.create(autoscaler(room, "b", "scaledobjects"))
        room.counts.canary = (4000, 3000)
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        await room.comes_to(rollout_id, S.ROLLED_BACK)
        await room.holds(lambda: room.replicas_of("b") == 0, "b is scaled to 0")
        await room.holds(lambda: notes(room, "b", "scaledobjects") == {PAUSED: "0"}, "KEDA is told to leave it at 0")
