"""An API server in trouble while a release goes out, and while it comes back: late perhaps, and right in the end."""

from __future__ import annotations

from kube.faults import Fault
from kube_room import CANARY, KubeRoom, Make, tracks

from state.words import RolloutState

S = RolloutState


def troubled(room: KubeRoom) -> list[Fault]:
    """Each kind of trouble, met by the writes that move traffic and pods."""
    kube = room.kube
    met = [
        kube.fail(409, "PATCH", "httproutes"),
        kube.fail(500, "PATCH", "httproutes"),
        kube.fail(429, "PATCH", "httproutes", retry_after_s=1),
        kube.reset("after", "PATCH", "httproutes"),
        kube.reset("before", "PATCH", "services"),
    ]
    kube.fail(503, "GET", "endpointslices", times=2)
    kube.fail(500, "PATCH", "deployments")
    kube.fail(409, "PATCH", "scale")
    kube.faults.add(Fault("GET", "httproutes", 2, half_body=True))
    kube.faults.add(Fault("GET", "httproutes", 3, latency_s=0.5))
    return met


async def test_a_canary_ends_live_and_its_rollback_ends_on_the_release_before(make: Make) -> None:
    async with make(CANARY.replace("{ weight = 50 }, ", "")) as room:
        await room.rolled_out("a")
        met = troubled(room)
        await room.rolled_out("b")
        assert [fault.hits for fault in met] == [1] * len(met)
        assert (room.routed(), tracks(room)["stable"]) == ({"b": 100}, "b 100")
        troubled(room)
        asked = await room.ask("rollback", "service/chat")
        await room.comes_to(asked.ref.removeprefix("rollout/"), S.ROLLED_BACK)
        await room.holds(lambda: room.replicas_of("b") == 0, "b is scaled to 0")
        assert (room.routed(), tracks(room)) == ({"a": 100}, {"stable": "a 100"})
        assert room.replicas_of("a") == 2
