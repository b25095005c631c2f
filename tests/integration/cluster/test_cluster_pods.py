"""Pods that do not come up: a release that crashes is given up with the pod's words, a cluster that lacks something is waited for."""

from __future__ import annotations

import pytest
from kube_room import Make

from adapters.kubernetes import objects
from state.words import RolloutState

S = RolloutState


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["CrashLoopBackOff", "OOMKilled"])
async def test_a_canary_that_crashes_before_its_traffic_is_given_up_with_the_pods_words(make: Make, kind: str) -> None:
    async with make() as room:
        await room.rolled_out("a")
        room.kube.pods.trouble(kind, labels={objects.HASH: objects.spec_hash(room.spec("b"))})
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        message = await room.comes_to(rollout_id, S.ROLLED_BACK, timeout_s=300)
        assert "crashed" in message and kind in message
        assert room.routed() == {"a": 100}


@pytest.mark.deep
@pytest.mark.parametrize(
    ("kind", "word"),
    [("ImagePullBackOff", "ImagePullBackOff"), ("Denied", "quota"), ("Unschedulable", "FailedScheduling")],
)
async def test_what_the_cluster_lacks_pauses_and_goes_on_once_it_is_there(make: Make, kind: str, word: str) -> None:
    async with make() as room:
        await room.rolled_out("a")
        room.kube.pods.trouble(kind, labels={objects.HASH: objects.spec_hash(room.spec("b"))})
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        if kind == "Unschedulable":
            await room.holds(lambda: len(room.kube.objects("pods")) == 4, "its pods wait for a node")
            room.kube.advance(5000)
        message = await room.comes_to(rollout_id, S.PAUSED)
        row = room.row(rollout_id)
        assert (row.pause_reason, room.routed()) == ("capacity", {"a": 100}) and word in message
        room.kube.pods.well()
        await room.holds(lambda: not room.runtime.lacks("chat", "production", "b"), "the cluster has it", 25)
        await room.ask("rollout.resume", f"rollout/{rollout_id}")
        await room.comes_to(rollout_id, S.COMPLETED)
