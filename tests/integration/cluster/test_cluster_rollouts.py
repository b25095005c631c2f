"""Rollouts through the real controller and the Kubernetes adapter: the very writes, in their order, and where users end up."""

from __future__ import annotations

from kube_room import CANARY, DIGEST, ROUTED, KubeRoom, Make, tracks

from adapters.kubernetes import objects
from state.words import RolloutState

S = RolloutState
BAD, GOOD = (4000, 3000), (4000, 0)
BLUE_GREEN = 'strategy = "blue-green"\nsteps = [{ pause = "300ms" }]'
MADE = ["try deployments/chat-{0} replicas={1}", "apply configmaps/chat-{0}", "apply poddisruptionbudgets/chat-{0}",
        "apply deployments/chat-{0} replicas={1}"]  # fmt: skip


def made(release: str, replicas: int = 2) -> list[str]:
    """The writes that make a release's Deployment."""
    return [line.format(release, replicas) for line in MADE]


async def back(room: KubeRoom, release: str) -> str:
    """Roll the live `release` back and wait until nothing of it is left; the plan's warnings."""
    asked = await room.ask("rollback", "service/chat")
    await room.comes_to(asked.ref.removeprefix("rollout/"), S.ROLLED_BACK)
    await room.holds(lambda: room.replicas_of(release) == 0, f"{release} is scaled to 0")
    assert asked.plan is not None
    return "; ".join(asked.plan.warnings)


async def test_a_canary_goes_up_by_weights_and_is_promoted(make: Make) -> None:
    async with make() as room:
        await room.rolled_out("a")
        assert room.written() == [
            *made("a"),
            "apply services/chat-stable selector=a",
            "post httproutes chat-stable=100",
        ]
        room.kube.requests.clear()
        await room.rolled_out("b")
        assert room.written() == [
            *made("b"),
            "apply services/chat-canary selector=b",
            "patch httproutes/chat chat-stable=75,chat-canary=25",
            "patch httproutes/chat rules/0/backendRefs/0/weight=50; rules/0/backendRefs/1/weight=50",
            "patch httproutes/chat rules/0/backendRefs/0/weight=0; rules/0/backendRefs/1/weight=100",
            "patch services/chat-stable selector=b",
            "patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0",
        ]
        assert (room.routed(), room.led("stable"), room.replicas_of("a")) == ({"b": 100}, "b", 2), "N-1 stays warm"


async def test_every_write_carries_its_field_manager_and_tests_what_it_replaces(make: Make) -> None:
    async with make() as room:
        await room.rolled_out("a")
        await room.rolled_out("b")
        writes = [one for one in room.kube.requests.writes() if "/proxy" not in one.path]
        assert {one.query["fieldManager"] for one in writes} == {"airboss"}
        applied = [one for one in writes if one.content_type == "application/apply-patch+yaml"]
        assert {one.query["force"] for one in applied} == {"false"}
        (weighed, *_) = [one for one in writes if "rules/0" in str(one.body)]
        assert [(o["op"], o["path"]) for o in weighed.body] == [
            ("test", "/metadata/resourceVersion"),
            ("test", "/spec/rules/0/backendRefs/0/name"),
            ("test", "/spec/rules/0/backendRefs/1/name"),
            ("add", "/spec/rules/0/backendRefs/0/weight"),
            ("add", "/spec/rules/0/backendRefs/1/weight"),
        ]
        pods = room.kube.object("deployments", objects.name_of(room.spec("b")))
        assert pods["metadata"]["annotations"][objects.DIGEST] == DIGEST["b"]
        assert "airboss engine of" in pods["metadata"]["annotations"][objects.AUTHOR]


async def test_a_failed_canary_gives_its_traffic_back_before_its_pods(make: Make) -> None:
    async with make() as room:
        await room.rolled_out("a")
        room.kube.requests.clear()
        room.counts.canary = BAD
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        await room.comes_to(rollout_id, S.ROLLED_BACK)
        await room.holds(lambda: room.replicas_of("b") == 0, "b is scaled to 0")
        assert room.written() == [
            *made("b"),
            "apply services/chat-canary selector=b",
            "patch httproutes/chat chat-stable=75,chat-canary=25",
            "patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0",
            'merge deployments/chat-b/scale {"replicas": 0}',
        ]
        assert (room.routed(), tracks(room)) == ({"a": 100}, {"stable": "a 100"})


async def test_a_rollback_of_a_promoted_release_is_one_switch_and_then_capacity(make: Make) -> None:
    async with make() as room:
        await room.rolled_out("a")
        await room.rolled_out("b")
        room.kube.requests.clear()
        assert await back(room, "b") == "", "a is warm: nothing starts first, nothing is shed"
        assert room.written() == [
            "patch services/chat-stable selector=a",
            'merge deployments/chat-b/scale {"replicas": 0}',
        ]
        assert room.routed() == {"a": 100}


async def test_blue_green_is_previewed_by_a_header_and_switches_at_once(make: Make) -> None:
    async with make(BLUE_GREEN) as room:
        await room.rolled_out("a")
        room.kube.requests.clear()
        await room.rolled_out("b")
        assert room.written() == [
            *made("b"),
            "apply services/chat-canary selector=b",
            "patch httproutes/chat chat-canary=1 x-airboss-preview=b | chat-stable=100",
            "patch httproutes/chat chat-stable=0,chat-canary=100",
            "patch services/chat-stable selector=b",
            "patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0",
        ]


async def test_blue_green_without_a_gateway_has_a_preview_service_and_switches_a_selector(make: Make) -> None:
    async with make(BLUE_GREEN, 'traffic = "service"') as room:
        await room.rolled_out("a")
        room.kube.requests.clear()
        asked = await room.deploy("b", dry_run=True)
        assert asked.plan is not None
        assert "Service chat-preview" in [line.field for line in asked.plan.lines]
        await room.rolled_out("b")
        assert room.written() == [
            *made("b"),
            "apply services/chat-preview selector=b",
            "patch services/chat-entry selector=b",
        ]
        room.kube.requests.clear()
        await back(room, "b")
        assert room.written() == [
            "patch services/chat-entry selector=a",
            "patch services/chat-preview selector=a",
            'merge deployments/chat-b/scale {"replicas": 0}',
        ]
        assert (room.led("entry"), room.led("preview")) == ("a", "a")


async def test_a_rolling_update_moves_weight_and_pods_batch_by_batch_and_back(make: Make) -> None:
    async with make('strategy = "rolling"') as room:
        await room.rolled_out("a")
        room.kube.requests.clear()
        await room.rolled_out("b")
        await room.holds(lambda: room.replicas_of("a") == 0, "a has given its place up")
        assert room.written() == [
            *made("b", 1),
            "apply services/chat-canary selector=b",
            "patch httproutes/chat chat-stable=50,chat-canary=50",
            'merge deployments/chat-a/scale {"replicas": 1}',
            'merge deployments/chat-b/scale {"replicas": 2}',
            "patch httproutes/chat rules/0/backendRefs/0/weight=0; rules/0/backendRefs/1/weight=100",
            "patch services/chat-stable selector=b",
            "patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0",
            'merge deployments/chat-a/scale {"replicas": 0}',
        ]
        room.kube.requests.clear()
        await back(room, "b")
        assert room.written() == [
            'merge deployments/chat-a/scale {"replicas": 2}',
            "patch services/chat-stable selector=a",
            'merge deployments/chat-b/scale {"replicas": 0}',
        ], "capacity first, then traffic, then the capacity given up"


async def test_a_baseline_stands_beside_the_canary_until_half_of_the_traffic_is_the_canarys(make: Make) -> None:
    async with make(CANARY + "\nbaseline = true") as room:
        await room.rolled_out("a")
        room.kube.requests.clear()
        await room.rolled_out("b")
        written = room.written()
        # The baseline is let go beside the promotion, in either order, but never while it has traffic.
        gone = 'merge deployments/chat-a+baseline/scale {"replicas": 0}'
        without = "patch httproutes/chat rules/0/backendRefs/1/weight=100; rules/0/backendRefs/2/weight=0"
        assert written.count(gone) == 1 and written.index(gone) > written.index(without)
        written.remove(gone)
        assert written == [
            *made("b"),
            *made("a+baseline"),
            "apply services/chat-canary selector=b",
            "apply services/chat-baseline selector=a+baseline",
            "patch httproutes/chat chat-stable=50,chat-canary=25,chat-baseline=25",
            "patch httproutes/chat rules/0/backendRefs/0/weight=0; rules/0/backendRefs/1/weight=50; rules/0/backendRefs/2/weight=50",
            without,
            "patch services/chat-stable selector=b",
            "patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0",
        ]


SHADOW = 'strategy = "shadow"\nsteps = [{ mirror = 10 }]\nshadow = { then = "promote" }'


async def test_a_shadow_gets_copies_and_is_judged_by_what_they_were_counted_as(make: Make) -> None:
    async with make(SHADOW) as room:
        await room.rolled_out("a", strategy="canary")
        room.kube.requests.clear()
        room.counts.sees_copies = True
        await room.rolled_out("b")
        assert room.written() == [
            *made("b"),
            "apply services/chat-shadow selector=b",
            "patch httproutes/chat chat-stable=100 copies=10",
            "patch services/chat-stable selector=b",
            "patch httproutes/chat chat-stable=100",
        ]


async def test_copies_that_nobody_counts_are_no_evidence_and_the_pause_says_what_is_missing(make: Make) -> None:
    async with make(SHADOW, judge=', no_data_after = "1s"') as room:
        await room.rolled_out("a", strategy="canary")
        rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
        said = await room.comes_to(rollout_id, S.PAUSED)
        assert 'track="shadow"' in said
        assert room.row(rollout_id).pause_reason == "no_data"


async def test_through_our_own_gateway_nothing_but_deployments_is_written(make: Make) -> None:
    async with make(CANARY, 'traffic = "gateway"') as room:
        await room.rolled_out("a")
        await room.rolled_out("b")
        assert room.weights() == {"b": 100}
        assert room.workers.splits[0] == {"a": 100} and {"a": 75, "b": 25} in room.workers.splits
        assert room.written() == [*made("a"), *made("b")]


async def test_an_engine_that_ends_within_a_step_writes_nothing_twice(make: Make) -> None:
    room = make(CANARY, ROUTED)
    await room.begin()
    await room.rolled_out("a")
    room.counts.canary = (0, 0)
    rollout_id = (await room.deploy("b")).ref.removeprefix("rollout/")
    await room.comes_to(rollout_id, S.STEP_BAKING)
    before = room.written()
    await room.end()
    room.start()
    async with room:
        room.counts.canary = GOOD
        await room.comes_to(rollout_id, S.COMPLETED)
        assert room.written()[: len(before)] == before
        assert [line for line in room.written() if line.startswith("try")] == [made("a")[0], made("b")[0]]
        assert room.routed() == {"b": 100}
