"""Restarting one replica: which one is meant, whom it would leave without an answer, what is written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from adapters.ports import ReplicaStatus
from state.words import Conflict, Denied, UsageError


def replica(name: str, release: str = "charlm-1", **more: Any) -> ReplicaStatus:
    given = {"is_ready": True, "is_alive": True, "restarts": 0} | more
    return ReplicaStatus(name, "chat", "production", release, "d", 0, f"unix:/{name}", 42, **given)


@dataclass
class Runtime:
    there: list[ReplicaStatus]
    restarted: list[str] = field(default_factory=list)

    def replicas(self, service: str, env: str) -> list[ReplicaStatus]:
        return self.there if (service, env) == ("chat", "production") else []

    def restart(self, spawn_id: str) -> None:
        self.restarted.append(spawn_id)


def seat(office: Any, *there: ReplicaStatus) -> Runtime:
    runtime = Runtime(list(there))
    office.desk.controller.world.runtime = runtime
    return runtime


async def restart(office: Any, name: str, who: str = "olga", **more: Any) -> Any:
    args = {"replica": name, "env": "production", **more.pop("args", {})}
    return await office.ask(who, "service.restart", "service/chat", args=args, **more)


async def test_a_beginning_that_only_one_has_is_enough_and_it_is_written_down(office: Any) -> None:
    runtime = seat(office, replica("m-aa1"), replica("m-ab2"))
    done = await restart(office, "m-ab")
    assert done.changed and runtime.restarted == ["m-ab2"]
    assert ("user:olga", "service.restart") in office.audit()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("m-zz", "no replica of chat in production is called 'm-zz'"),
        ("m-a", "more than one replica .* begins 'm-a'"),
        ("", "no replica"),
    ],
)
async def test_what_is_not_one_replica_is_refused_with_those_there_are(office: Any, name: str, says: str) -> None:
    runtime = seat(office, replica("m-aa1"), replica("m-ab2"))
    with pytest.raises(Conflict, match=says) as refused:
        await restart(office, name)
    assert "m-aa1, m-ab2" in refused.value.hint and not runtime.restarted


async def test_the_only_one_that_answers_for_its_release_is_restarted_by_force_alone(office: Any) -> None:
    runtime = seat(office, replica("m-1"), replica("m-2", is_ready=False), replica("m-3", "charlm-2"))
    with pytest.raises(Conflict, match="is the only replica of charlm-1 that answers"):
        await restart(office, "m-1")
    await restart(office, "m-2")  # it answers nobody as it is
    await restart(office, "m-1", args={"force": True})
    assert runtime.restarted == ["m-2", "m-1"]


async def test_one_that_leaves_already_is_left_alone_and_a_dry_run_does_nothing(office: Any) -> None:
    runtime = seat(office, replica("m-1"), replica("m-2"), replica("m-3", is_wanted=False, is_ready=False))
    with pytest.raises(Conflict, match="is leaving already"):
        await restart(office, "m-3")
    plan = await restart(office, "m-1", dry_run=True)
    assert not plan.changed and plan.plan.lines[0].before == "pid 42"
    assert not runtime.restarted and ("user:olga", "service.restart") not in office.audit()


async def test_it_is_an_operators_and_confirmed(office: Any) -> None:
    runtime = seat(office, replica("m-1"), replica("m-2"))
    with pytest.raises(Denied):
        await restart(office, "m-1", who="vera")
    with pytest.raises(UsageError):
        await restart(office, "m-1", yes=False, confirm_name="")
    assert not runtime.restarted
