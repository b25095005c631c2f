"""Roles, policies and freezes change by an admin's act alone: what the file says otherwise waits, and is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.people.governing import FileWatch, at_start, differences, governed
from state.config import CONFIG_NAME, Config, parse_config
from state.store import Store
from state.words import Conflict, Denied, RolloutState, UsageError


def leads(toml: str) -> str:
    return toml.replace('approver = ["lea", "leo", "root", "robot"]', 'approver = ["lea", "leo", "olga"]')


def lax(toml: str) -> str:
    return toml.replace("approvals = 2", "approvals = 0")


def parsed(toml: str) -> Config:
    return parse_config(toml, Path(CONFIG_NAME))


def write(office: Any, toml: str) -> None:
    (office.desk.workspace / CONFIG_NAME).write_text(toml)


async def apply(office: Any, who: str, **more: Any) -> Any:
    return await office.ask(who, "config.apply", "engine/engine", **{"confirm_name": "shop", **more})


async def test_a_file_that_was_written_changes_nothing_until_an_admin_applies_it(office: Any, toml: str) -> None:
    write(office, leads(toml))
    watch = FileWatch(office.store, office.config, office.desk.workspace)
    await watch.turn()
    await watch.turn()
    assert "1 changes that are not applied" in watch.said
    assert [a for a in office.audit() if a[1] == "config.changed"] == [("system:engine", "config.changed")]
    name = await office.deploy("ci")
    with pytest.raises(Denied):
        await office.ask("olga", "rollout.approve", f"rollout/{name}")

    shown = await apply(office, "ana", dry_run=True)
    (line,) = shown.plan.lines
    assert (line.field, line.before) == ("roles.production.approver", '["lea", "leo", "root", "robot"]')
    assert shown.plan.warnings == ("needs an admin of production",)
    for who in ("olga", "lea"):
        with pytest.raises(Denied, match=r"may not config\.apply in production: it takes the role admin"):
            await apply(office, who)
    with pytest.raises(UsageError, match="takes a reason"):
        await apply(office, "ana", reason="")
    done = await apply(office, "ana", expect_revision=shown.revision)
    assert done.message == "applied 1 change(s) of production"
    assert (await office.ask("olga", "rollout.approve", f"rollout/{name}")).changed
    assert ("user:ana", "config.apply") in office.audit()
    await watch.turn()
    assert watch.said == "as applied"
    assert (await apply(office, "ana")).changed is False


async def test_what_was_shown_is_what_is_applied(office: Any, toml: str) -> None:
    write(office, leads(toml))
    shown = await apply(office, "ana", dry_run=True)
    write(office, lax(toml))
    with pytest.raises(Conflict, match=r"airboss\.toml has changed since it was shown"):
        await apply(office, "ana", expect_revision=shown.revision)


async def test_a_policy_takes_the_admin_of_where_it_moves_and_rollouts_keep_theirs(office: Any, toml: str) -> None:
    name = await office.deploy()
    write(office, lax(toml))
    with pytest.raises(Denied, match="in production"):
        await apply(office, "olga")  # admin of dev alone
    await apply(office, "ana")
    await office.tick(name)
    assert office.row(name).state == RolloutState.AWAITING_APPROVAL
    await office.ask("olga", "rollout.abort", f"rollout/{name}")
    assert office.row(await office.deploy()).state == RolloutState.PREPARING


@pytest.mark.parametrize(
    ("before", "after", "envs"),
    [
        ("[roles.dev]", "[roles.dev]\nviewer = ['x']", {"dev"}),
        ("approvals = 2", "approvals = 3", {"production"}),
        ('shared = ["robot"]', "shared = []", {"*"}),
        ("[people]", "[environment.new]\n[people]", {"*"}),
        ("[people]", "[freeze.f]\nreason = 'x'\nweekly = 'fri 18:00-20:00'\n[people]", {"*"}),
    ],
)
def test_every_change_names_whose_admin_must_agree(toml: str, before: str, after: str, envs: set[str]) -> None:
    found = differences(parsed(toml), parsed(toml.replace(before, after, 1)))
    assert found and set().union(*(one.envs for one in found)) == envs


def test_other_tables_are_not_governed(toml: str) -> None:
    other = parsed(toml.replace("[service.chat]", "[service.chat]\nreplicas = 2"))
    assert differences(parsed(toml), other) == ()
    assert parsed(toml).other_tables_than(other) == ("service",)


async def test_a_file_that_cannot_be_read_is_said_and_what_was_applied_holds(office: Any) -> None:
    write(office, "[roles.production\n")
    watch = FileWatch(office.store, office.config, office.desk.workspace)
    await watch.turn()
    assert "what was applied holds" in watch.said
    with pytest.raises(UsageError, match="not valid TOML"):
        await apply(office, "ana")


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = Store.open(tmp_path / "state.db")
    yield opened
    opened.close()


def test_an_engine_started_by_somebody_who_is_no_admin_holds_what_was_applied(store: Store, toml: str) -> None:
    assert at_start(store, parsed(toml)).policy["careful"].approvals == 2
    started = at_start(store, parsed(lax(toml).replace("[service.chat]", "[service.chat]\nreplicas = 2")))
    assert started.policy["careful"].approvals == 2
    assert started.service["chat"].replicas == 2  # what is not governed is the file's
    assert governed(started) == governed(parsed(toml))


def test_an_engine_started_by_its_own_admin_applies_the_file(store: Store, toml: str) -> None:
    bare = toml[: toml.index("[roles.dev]")]
    at_start(store, parsed(bare))
    assert at_start(store, parsed(bare.replace("approvals = 2", "approvals = 0"))).policy["careful"].approvals == 0
    assert at_start(store, parsed(bare)).policy["careful"].approvals == 2
