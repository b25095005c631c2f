"""Who may what: the verb × role table, its causes, and what nobody in particular may decide."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from console.commands import access_tables
from engine.access import Actor, demand, demand_person, grants_of, impersonal, refusal_of
from engine.api.views.access import access_table, user_access
from engine.verbs import INCLUDES, VERBS, roles_that_may
from state.config import parse_config
from state.words import Denied, Role, UsageError

TOML = """
[environment.dev]
[environment.production]
[roles.production]
viewer = ["vera"]
operator = ["group:oncall"]
approver = ["lea"]
registrar = ["rita"]
admin = ["ana"]
[people]
shared = ["ci", "group:robots"]
owners = { ci = "lea" }
"""
CONFIG = parse_config(TOML, Path("airboss.toml"))
PEOPLE = {
    Role.VIEWER: Actor(70001, "vera", frozenset()),
    Role.OPERATOR: Actor(70002, "olga", frozenset({"oncall"})),
    Role.APPROVER: Actor(70003, "lea", frozenset()),
    Role.REGISTRAR: Actor(70004, "rita", frozenset()),
    Role.ADMIN: Actor(70005, "ana", frozenset()),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("role", Role)
def test_each_cell_of_the_table_is_what_the_door_does(verb: str, role: Role) -> None:
    may = refusal_of(CONFIG, "production", PEOPLE[role], verb) is None
    assert may == (role in roles_that_may(verb)) == (VERBS[verb].role in INCLUDES[role])


def test_a_registrar_moves_no_traffic_and_an_operator_is_no_registrar() -> None:
    assert roles_that_may("deploy") == (Role.OPERATOR, Role.APPROVER, Role.ADMIN)
    assert Role.REGISTRAR not in INCLUDES[Role.OPERATOR] and Role.REGISTRAR not in INCLUDES[Role.APPROVER]
    with pytest.raises(Denied, match="rita may not rollback in production: it takes the role operator"):
        demand(CONFIG, "production", PEOPLE[Role.REGISTRAR], "rollback")


def test_a_role_in_one_environment_is_none_in_another() -> None:
    assert refusal_of(CONFIG, "dev", PEOPLE[Role.ADMIN], "deploy") is not None


def test_every_role_names_the_line_that_gives_it() -> None:
    assert [g.because for g in grants_of(CONFIG, "production", PEOPLE[Role.OPERATOR])] == [
        "everyone who reaches the engine's socket",
        "'group:oncall' in roles.production.operator",
    ]
    mine = grants_of(CONFIG, "dev", Actor(os.getuid(), "me", frozenset()))
    assert mine[-1].role is Role.ADMIN and "[roles.dev]" in mine[-1].because


@pytest.mark.parametrize(
    ("actor", "why"),
    [
        (Actor(0, "root", frozenset()), "uid 0"),
        (Actor(70006, "ci", frozenset()), "shared"),
        (Actor(70007, "r2", frozenset({"robots"})), "shared"),
        (PEOPLE[Role.APPROVER], ""),
    ],
)
def test_a_decision_takes_a_person(actor: Actor, why: str) -> None:
    assert why in impersonal(CONFIG, actor) and bool(impersonal(CONFIG, actor)) == bool(why)
    for verb in VERBS.values():
        if verb.personal and why:
            with pytest.raises(Denied, match="a person must answer for it"):
                demand_person(CONFIG, actor, verb.name)
        else:
            demand_person(CONFIG, actor, verb.name)
    assert {"rollout.approve", "rollout.promote_full"} <= {v.name for v in VERBS.values() if v.personal}


def test_the_table_says_who_was_given_what_and_which_users_that_is() -> None:
    found = access_table(CONFIG)
    rows = {(row.env, row.role): row for row in found.roles}
    assert rows[("production", "approver")].entries == ("lea",)
    assert rows[("production", "operator")].people == ()  # no such group here
    assert rows[("dev", "admin")].entries == ("the engine's own user",)
    assert found.owners == {"ci": "lea"}
    shown = access_tables.table(found.model_dump(mode="json"), "production")
    assert [item["env"] for item in shown.items] == ["production"] * 5


def test_an_account_reads_what_it_may_and_why_not() -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    found = user_access(CONFIG, Actor.of_user(me)).model_dump(mode="json")
    production = next(one for one in found["envs"] if one["env"] == "production")
    assert "takes the role operator" in production["refusals"]["deploy"]
    assert access_tables.of_user(found, "dev", "deploy").items[0]["may"] is True
    with pytest.raises(Denied, match=r"production: .* may not deploy") as denied:
        access_tables.of_user(found, None, "deploy")
    assert denied.value.exit == 7
    with pytest.raises(UsageError, match="no verb 'deplo'"):
        access_tables.of_user(found, None, "deplo")
    with pytest.raises(UsageError, match="no environment 'prod'"):
        access_tables.of_user(found, "prod")


def test_a_user_this_host_does_not_know_is_said_so() -> None:
    with pytest.raises(UsageError, match="no user 'nobody-of-that-name'"):
        Actor.of_user("nobody-of-that-name")
