"""`rollback --emergency` into a cluster: no engine, no store, no configuration; the HTTPRoute or the Service is given back, and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kube.access import Rule
from kube_room import DIGEST, KubeRoom, Make
from sqlmodel import Session
from stranded import airboss

from adapters.kubernetes import objects
from adapters.kubernetes.emergency import opened
from adapters.ports import Backend, ReplicaSetSpec, Route
from engine.rollouts import planning
from engine.spill import import_spill
from state.models import Rollout, TrackState
from state.paths import Paths
from state.words import OperationFailed, RolloutState, Track

S = RolloutState
SPLIT = {"a": 75, "b": 25}


def spec(room: KubeRoom, release: str) -> ReplicaSetSpec:
    return ReplicaSetSpec("chat", "production", release, DIGEST[release], room.root, 2)


def route(*backends: tuple[Track, str, int]) -> Route:
    return Route("chat", "production", "local", "ro-2", tuple(Backend(*b, ()) for b in backends), 100.0, 30.0)


async def served(room: KubeRoom, *backends: tuple[Track, str, int], pods: str = "ab") -> dict[str, Any]:
    """Have the releases' pods and the split in the cluster, as an engine left them; the plan it kept for going back to `a`."""
    for release in "ab":
        await room.runtime.ensure(spec(room, release))
    name = {release: objects.spec_hash(room.spec(release)) for release in "ab"}
    await room.cluster.deployments.fill()
    room.kube.wait_for(lambda: len(room.kube.objects("pods")) == 4, "pods of both")
    room.store.write_now(lambda s: rows(s, room, backends))
    await room.world.router.publish()
    for gone in set("ab") - set(pods):
        path = room.cluster.path("deployments", objects.name_of(room.spec(gone)), "scale")
        await room.cluster.client.merge(path, {"spec": {"replicas": 0}})
        room.kube.wait_for(
            lambda gone=gone: all(
                p["metadata"]["labels"][objects.HASH] != name[gone] for p in room.kube.objects("pods")
            ),
            "none",
        )
    await room.cluster.pods.fill()
    await room.plans.keep()
    room.kube.requests.clear()
    return dict(json.loads((room.root / "chat@production.json").read_text()))


def rows(session: Session, room: KubeRoom, backends: tuple[tuple[Track, str, int], ...]) -> None:
    policy = {**planning.policy_for(room.config, planning.Wish("chat", "production", "b")), "replicas": 2}
    session.add(Rollout(id="ro-2", service="chat", env="production", target="local", strategy="canary", from_release="a",
                        to_release="b", state="step_baking", policy=policy, created_by="user:ana", created_at=1.0,
                        state_since=1.0))  # fmt: skip
    for track, release, weight in backends:
        session.add(TrackState(service="chat", env="production", target="local", track=track, release_id=release,
                               rollout_id="ro-2", weight=weight, since=1.0))  # fmt: skip


IN_CANARY = ((Track.STABLE, "a", 75), (Track.CANARY, "b", 25))


async def test_a_canary_is_given_back_by_one_patch_that_tests_what_it_replaces(make: Make) -> None:
    room = make()
    plan = await served(room, *IN_CANARY)
    it = opened(plan, room.root)
    assert (await it.look())["weights"] == SPLIT
    done = await it.go(20)
    await it.cluster.client.close()
    assert (done["written"], done["confirmed"], len(done["replicas"])) == (True, True, 2)
    assert room.written() == ["patch httproutes/chat rules/0/backendRefs/0/weight=100; rules/0/backendRefs/1/weight=0"]
    (patch,) = room.kube.requests.writes("httproutes")
    assert [o["path"] for o in patch.body if o["op"] == "test"] == [
        "/metadata/resourceVersion", "/spec/rules/0/backendRefs/0/name", "/spec/rules/0/backendRefs/1/name"
    ]  # fmt: skip


@pytest.mark.deep
async def test_a_release_without_pods_gets_them_before_its_traffic(make: Make) -> None:
    room = make()
    plan = await served(room, (Track.STABLE, "b", 100), pods="b")
    it = opened(plan, room.root)
    assert (await it.look())["replicas"] == []
    done = await it.go(60)
    await it.cluster.client.close()
    assert done["confirmed"]
    assert room.written() == ['merge deployments/chat-a/scale {"replicas": 2}', "patch services/chat-stable selector=a"]


@pytest.mark.deep
async def test_pods_that_crash_get_no_traffic(make: Make) -> None:
    room = make()
    plan = await served(room, (Track.STABLE, "b", 100), pods="b")
    room.kube.pods.trouble("ImagePullBackOff", labels={objects.HASH: objects.spec_hash(room.spec("a"))})
    it = opened(plan, room.root)
    with pytest.raises(OperationFailed, match=r"ImagePullBackOff|ErrImagePull"):
        await it.go(60)
    await it.cluster.client.close()
    assert room.routed() == {"b": 100}


async def test_a_selector_is_switched_where_no_gateway_splits(make: Make) -> None:
    room = make('strategy = "blue-green"', 'traffic = "service"')
    plan = await served(room, (Track.STABLE, "b", 100))
    it = opened(plan, room.root)
    done = await it.go(20)
    await it.cluster.client.close()
    assert (done["confirmed"], room.written(), room.led("entry")) == (
        True, ["patch services/chat-entry selector=a"], "a"
    )  # fmt: skip


async def test_what_is_not_allowed_is_refused_in_the_clusters_words(make: Make) -> None:
    room = make()
    plan = await served(room, *IN_CANARY)
    room.kube.access.grant("admin-token", "ann", [Rule(["get", "list"], ["*"])])
    it = opened(plan, room.root)
    done = await it.go(20)
    await it.cluster.client.close()
    assert done["written"] is False and "patch httproutes/chat" in done["error"]["message"]
    assert room.routed() == SPLIT


@pytest.mark.deep
async def test_the_command_moves_the_cluster_and_the_next_engine_takes_it_up(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = make()
    plan = await served(room, *IN_CANARY)
    paths = Paths.of(tmp_path)
    paths.make()
    (paths.root / "airboss.toml").write_text("this = is [no configuration")
    (paths.rollback / "chat@production.json").write_text(json.dumps(plan))
    shown = airboss("rollback", "chat", "--emergency", "--dry-run", cwd=tmp_path)
    assert shown.code == 0 and "25 %" in shown.out and "kubectl" in shown.out, shown.err
    assert room.written() == []
    ran = airboss("rollback", "chat", "--emergency", "--yes", "--reason", "bad answers", cwd=tmp_path)
    assert ran.code == 0, ran.err
    assert room.routed() == {"a": 100}
    assert await import_spill(room.store, paths.state / "spill", room.config) == 1
    room.kube.requests.clear()
    room.start()
    async with room:
        await room.comes_to("ro-2", S.ROLLED_BACK)
        await room.holds(lambda: room.replicas_of("b") == 0, "b is scaled to 0")
    assert room.written() == ['merge deployments/chat-b/scale {"replicas": 0}'], "the traffic was back already"


@pytest.mark.deep
async def test_where_the_cluster_refuses_us_the_lines_are_printed_that_do_it_by_hand(
    make: Make, tmp_path: Path
) -> None:
    room = make()
    plan = await served(room, *IN_CANARY)
    paths = Paths.of(tmp_path)
    paths.make()
    (paths.rollback / "chat@production.json").write_text(json.dumps(plan))
    (paths.root / "airboss.toml").write_text("")
    room.kube.access.expire("admin-token")
    ran = airboss("rollback", "chat", "--emergency", "--yes", cwd=tmp_path)
    assert ran.code == 7, ran.err
    assert "kubectl" in ran.err and "patch httproute chat --type=json" in ran.err
    assert not list((paths.state / "spill").glob("*"))
