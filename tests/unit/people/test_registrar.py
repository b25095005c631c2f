"""What a registrar says of a release: who may, what serves is left alone, and the registry follows."""

from __future__ import annotations

from typing import Any, cast

import pytest
from sqlmodel import Session

from adapters.ports import Registry
from engine.rollouts.registry_queue import RegistryQueue
from state.models import Release
from state.words import Conflict, Denied, UsageError


class Tags:
    """A registry that keeps what it is told."""

    def __init__(self) -> None:
        self.tags: dict[str, dict[str, str]] = {}
        self.has = {"challenger": "2", "champion": "1"}

    def aliases(self, model_name: str) -> dict[str, str]:
        return dict(self.has)

    def drop_alias(self, model_name: str, alias: str) -> None:
        self.has.pop(alias)

    def tag(self, model_name: str, version: str, tags: dict[str, str]) -> None:
        self.tags.setdefault(version, {}).update(tags)

    def close(self) -> None:
        return None


async def follow(office: Any) -> Tags:
    """The registry once the queue has told it all."""
    tags = Tags()

    async def answers() -> Registry:
        return cast(Registry, tags)

    guarded: list[Any] = []

    async def through(work: Any) -> Any:
        guarded.append(work)
        return work()

    await RegistryQueue(office.store, answers, office.desk.on_change, through)._turn()
    assert guarded, "a stage is told through the registry's guard, as every move is"
    return tags


def release(office: Any, name: str) -> tuple[str, str]:
    def read(session: Session) -> tuple[str, str]:
        row = session.get_one(Release, name)
        return row.lifecycle, row.rejected_reason

    return cast(tuple[str, str], office.store.read_now(read))


async def stage(office: Any, name: str, word: str, who: str = "ana", **more: Any) -> Any:
    return await office.ask(who, "release.stage", f"release/{name}", args={"stage": word}, **more)


@pytest.fixture
def office(office: Any) -> Any:
    office.config.roles.setdefault("dev", office.config.roles["production"])
    office.config.roles["dev"] = office.config.roles["dev"].model_copy(update={"admin": ("olga", "ana")})
    office.config.roles["production"] = office.config.roles["production"].model_copy(update={"registrar": ("ana",)})
    return office


async def test_a_rejected_release_is_not_deployed_and_the_registry_says_why(office: Any) -> None:
    done = await stage(office, "charlm-2", "rejected", reason="learned from leaked data")
    assert done.changed and done.message == "charlm-2 is Rejected"
    assert release(office, "charlm-2") == ("Rejected", "learned from leaked data")
    with pytest.raises(Denied, match="rejected: learned from leaked data"):
        await office.deploy()
    told = await follow(office)
    assert told.tags == {"2": {"airboss.stage": "Rejected", "airboss.reject_reason": "learned from leaked data"}}
    assert "challenger" not in told.has and told.has["champion"] == "1"
    assert office.audit()[-2:] == [("user:ana", "release.stage"), ("system:engine", "registry.Rejected")]
    assert ("release/charlm-2", "registry: Rejected charlm-2") in office.told


async def test_a_stage_taken_back_lets_it_be_deployed_again(office: Any) -> None:
    await stage(office, "charlm-2", "rejected", reason="a doubt")
    await stage(office, "charlm-2", "development", reason="cleared")
    assert release(office, "charlm-2") == ("Development", "")
    assert await office.deploy()
    told = await follow(office)
    assert told.tags["2"]["airboss.stage"] == "Development" and told.tags["2"]["airboss.reject_reason"] == ""


async def test_what_was_rejected_stays_so_when_it_is_put_away(office: Any) -> None:
    await stage(office, "charlm-2", "rejected", reason="a doubt")
    await stage(office, "charlm-2", "archived")
    assert release(office, "charlm-2") == ("Archived", "a doubt")
    with pytest.raises(Denied, match="rejected: a doubt"):
        await office.deploy()


async def test_what_serves_or_moves_keeps_its_stage(office: Any) -> None:
    with pytest.raises(Conflict, match=r"charlm-1 serves chat in dev \(stable\), chat in production \(stable\)"):
        await stage(office, "charlm-1", "archived")
    rollout = await office.deploy()
    with pytest.raises(Conflict, match=f"{rollout} is moving charlm-2 in production"):
        await stage(office, "charlm-2", "archived")
    assert release(office, "charlm-2")[0] == "Development"


async def test_nothing_happens_twice_or_in_a_dry_run(office: Any) -> None:
    planned = await stage(office, "charlm-3", "archived", dry_run=True)
    assert not planned.changed and (planned.plan.lines[0].before, planned.plan.lines[0].after) == (
        "Development",
        "Archived",
    )
    assert release(office, "charlm-3")[0] == "Development"
    assert (await stage(office, "charlm-3", "archived")).changed
    assert not (await stage(office, "charlm-3", "archived")).changed


@pytest.mark.parametrize("word", ["production", "gold", ""])
async def test_a_stage_that_no_hand_sets_is_refused(office: Any, word: str) -> None:
    with pytest.raises(UsageError) as refused:
        await stage(office, "charlm-2", word)
    assert "development, staging, archived, rejected" in refused.value.hint


async def test_an_operator_keeps_off_the_registry(office: Any) -> None:
    with pytest.raises(Denied):
        await stage(office, "charlm-2", "archived", who="olga")
    with pytest.raises(UsageError, match="there is no release"):
        await stage(office, "charlm-9", "archived")
