"""Scaling by hand: what holds and for how long, what is refused, what an autoscaler and a rollout make of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from adapters.ports import ReplicaSetSpec
from engine.api.views.fleet import scaled_words
from engine.operations import scaling
from engine.rollouts.wanted import by_hand, gives_back, wanted_replicas
from state import clock
from state.autoscale_config import Autoscale
from state.words import Conflict, Denied, RolloutState, UsageError

PLACE = ("chat", "production")


async def scale(office: Any, replicas: object, who: str = "olga", *, down: bool = False, **more: Any) -> Any:
    args = {"replicas": replicas, "env": "production", **more.pop("args", {})}
    return await office.ask(who, "service.scale_down" if down else "service.scale", "service/chat", args=args, **more)


def wanted(office: Any) -> int:
    return int(office.store.read_now(lambda s: wanted_replicas(s, office.config, *PLACE)))


async def test_a_number_holds_until_it_is_taken_back_and_each_change_is_on_record(office: Any) -> None:
    done = await scale(office, 3)
    assert done.changed and done.message == "chat in production: 1 → 3 replicas" and wanted(office) == 3
    assert not (await scale(office, 3)).changed
    assert scaled_words(office.store.read_now(lambda s: by_hand(s, *PLACE))) == "3 replicas by user:olga (because)"
    await scale(office, "auto", down=True)
    assert wanted(office) == 1 and office.store.read_now(lambda s: by_hand(s, *PLACE)) is None
    assert [a for _, a in office.audit() if a.startswith("service.scale")] == ["service.scale", "service.scale_down"]


async def test_a_number_with_an_end_ends_by_itself(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await scale(office, 3, args={"for_s": 60})
    real = clock.now()
    monkeypatch.setattr(clock, "now", lambda: SimpleNamespace(utc=real.utc + 61, mono=real.mono + 61, boot=real.boot))
    assert wanted(office) == 1
    assert office.store.read_now(lambda s: gives_back(s, office.config, *PLACE))


async def test_fewer_takes_the_other_verb_and_the_name(office: Any) -> None:
    await scale(office, 3)
    with pytest.raises(Conflict, match="takes 2 away"):
        await scale(office, 1)
    with pytest.raises(UsageError, match="service's name"):
        await scale(office, 1, down=True, confirm_name="")
    await scale(office, 1, down=True)
    assert wanted(office) == 1


async def test_while_a_rollout_counts_on_them_there_may_be_more_and_not_fewer(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scale(office, 2, args={"for_s": 60})
    name = await office.deploy()
    with pytest.raises(Conflict, match=f"{name} counts on the 2 replicas"):
        await scale(office, 1, down=True)
    await scale(office, 4, args={"for_s": 60})
    real = clock.now()
    monkeypatch.setattr(clock, "now", lambda: SimpleNamespace(utc=real.utc + 61, mono=real.mono + 61, boot=real.boot))
    assert wanted(office) == 4, "its end came under the rollout, which counts on it"
    assert not office.store.read_now(lambda s: gives_back(s, office.config, *PLACE))
    office.change(name, state=RolloutState.CANCELLED.value)
    assert wanted(office) == 1


async def test_a_number_that_was_taken_back_does_not_come_back_with_a_rollout(office: Any) -> None:
    await scale(office, 2)
    await scale(office, "auto", down=True)
    await office.deploy()
    assert wanted(office) == 1 and office.store.read_now(lambda s: by_hand(s, *PLACE)) is None


async def test_a_rollout_that_counts_replicas_itself_lets_nobody_scale(office: Any) -> None:
    name = await office.deploy(env="production")
    office.change(name, strategy="rolling")
    with pytest.raises(Conflict, match="counts them itself"):
        await scale(office, 2)


async def test_the_world_has_what_the_hand_says_and_gives_back_what_it_does_not(office: Any) -> None:
    ensured: list[ReplicaSetSpec] = []
    world = office.desk.controller.world

    async def ensure(spec: ReplicaSetSpec, *, allow_faults: bool = False) -> None:
        ensured.append(spec)

    world.runtime.ensure = ensure
    await scale(office, 3)
    await world.scale(*PLACE, "charlm-1", 1)
    assert ensured[-1].replicas == 3


async def test_an_autoscaler_stands_aside(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = office.config.service["chat"].model_copy(update={"autoscale": Autoscale(min=1, max=2)})
    monkeypatch.setitem(office.config.service, "chat", chat)
    plan = await scale(office, 5, dry_run=True)
    assert "stands aside" in plan.plan.warnings[0] and wanted(office) == 1
    await scale(office, 5)
    assert wanted(office) == 5, "its bounds are the autoscaler's, not the hand's"


async def test_memory_that_is_not_there_is_said_first(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "room_for", lambda pids: 1)
    with pytest.raises(Conflict, match="room for 1 more"):
        await scale(office, 4)
    assert "room for 1" in (await scale(office, 4, dry_run=True)).plan.warnings[0]
    await scale(office, 4, args={"force": True})
    assert wanted(office) == 4


@pytest.mark.parametrize("given", [0, 65, True, "many", 1.5, None])
async def test_what_is_no_number_of_replicas_is_refused(office: Any, given: object) -> None:
    with pytest.raises(UsageError, match="from 1 to 64"):
        await scale(office, given)


async def test_who_may_only_look_may_not_scale(office: Any) -> None:
    with pytest.raises(Denied):
        await scale(office, 2, who="vera")
    assert wanted(office) == 1
