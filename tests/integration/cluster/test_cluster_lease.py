"""A rollout under the lease: what it writes carries the term, and while another engine holds the lease nothing is written."""

from __future__ import annotations

from typing import Any

import pytest
from kube_room import ROUTED, Make

from adapters.kubernetes.lease import FENCE
from state.words import RolloutState

LEASED = f"{ROUTED}, lease = true"


async def test_what_a_rollout_writes_carries_the_term(make: Make) -> None:
    async with make(target=LEASED) as room:
        await room.rolled_out("a")
        assert "lease held, term 1" in room.cluster.said()
        for plural, name in (("httproutes", "chat"), ("services", "chat-stable")):
            assert room.kube.object(plural, name)["metadata"]["annotations"][FENCE] == "1"


@pytest.mark.deep
async def test_nothing_is_written_until_the_other_engine_gives_the_lease_back(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    room = make(target=LEASED)
    stamp = "2026-01-01T00:00:00.000000Z"
    spec = {"holderIdentity": "bob@two:/ws", "leaseDurationSeconds": 600, "renewTime": stamp, "leaseTransitions": 4}
    room.kube.create(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "airboss-production"},
            "spec": spec,
        }
    )
    async with room:
        await room.holds(lambda: "bob@two:/ws holds the lease" in room.cluster.said(), "it is seen who holds it")
        room.counts.canary = (4000, 0)
        rollout_id = (await room.deploy("a")).ref.removeprefix("rollout/")
        await room.holds(
            lambda: "nothing is written in the cluster: bob@two:/ws" in caplog.text, "its first write is refused"
        )
        assert room.written() == [], "and nothing is written"

        def free(one: dict[str, Any]) -> None:
            one["spec"]["holderIdentity"] = ""

        room.kube.edit("leases", "airboss-production", free)
        await room.comes_to(rollout_id, RolloutState.COMPLETED)
        assert room.kube.object("httproutes", "chat")["metadata"]["annotations"][FENCE] == "5"
