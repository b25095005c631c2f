"""What pods wrote and what befell them, where replicas' logs are asked for."""

from __future__ import annotations

from kube.access import Rule
from kube_room import DIGEST, Make

from adapters.ports import ReplicaSetSpec


async def test_a_pods_log_that_of_the_container_before_and_its_events_are_read_together(make: Make) -> None:
    room = make()
    room.kube.pods.log_text("CUDA out of memory\n")
    room.kube.pods.trouble("OOMKilled")
    await room.runtime.ensure(ReplicaSetSpec("chat", "production", "a", DIGEST["a"], room.root, 1))
    room.kube.wait_for(lambda: len(room.kube.objects("events")) > 0, "the kubelet's events")
    (one,) = await room.runtime.logs("chat", "", "", 50)
    assert (one["env"], one["release_id"], one["end_cause"]) == ("production", "a", "OOMKilled, exit 137")
    wrote, _, events = one["text"].partition("-- events --")
    assert wrote.startswith("-- the container before, which ended: OOMKilled, exit 137 --")
    assert wrote.count("CUDA out of memory") == 2 and "Warning BackOff" in events
    asked = [r.query for r in room.kube.requests.all("GET", "/log")]
    assert {"tailLines": "50", "limitBytes": "1048576", "container": "server"} in asked and any(
        q.get("previous") == "true" for q in asked
    )
    assert await room.runtime.logs("chat", "staging", "", 50) == []
    await room.cluster.client.close()


async def test_what_may_not_be_read_is_said_in_its_place(make: Make) -> None:
    room = make()
    await room.runtime.ensure(ReplicaSetSpec("chat", "production", "a", DIGEST["a"], room.root, 1))
    room.kube.wait_for(lambda: len(room.kube.objects("pods")) == 1, "a pod")
    room.kube.access.grant("admin-token", "ann", [Rule(["get", "list"], ["pods"])])
    (one,) = await room.runtime.logs("chat", "production", "chat-", 50)
    assert "not allowed: get pods/" in one["text"] and "(no events: not allowed: " in one["text"]
    await room.cluster.client.close()
