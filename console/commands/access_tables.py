"""Roles and what they allow, as tables."""

from __future__ import annotations

from typing import Any

from console.commands.format import NONE
from console.commands.tables import Item, listing
from console.output import Block, Facts, Outcome, Table
from state.words import Denied, Role, UsageError


def table(found: Item, env: str | None, filter: str = "") -> Outcome:
    """Who has which role, and which role may do which verb."""
    rows = [row for row in found["roles"] if env in (None, row["env"])]
    _demand_env(env, rows, found["roles"])
    listed = listing(
        "Role",
        rows,
        ("ENV", "ROLE", "GIVEN TO", "USERS OF THIS HOST"),
        lambda i: (i["env"], i["role"], _words(i["entries"]), _words(i["people"])),
        lambda i: f"role/{i['role']}@{i['env']}",
        filter=filter,
        empty="no environments",
    )
    verbs = Table(
        ("VERB", *(role.value.upper() for role in Role), "DOES"),
        [
            (v["verb"], *(_mark(v, role.value) for role in Role), v["summary"])
            for v in found["verbs"]
        ],
        title="Which role may do which verb (person: not as uid 0 or a shared account)",
    )  # fmt: skip
    accounts: list[Block] = []
    if found["shared"] or found["owners"]:
        owned = ", ".join(f"{account} for {person}" for account, person in found["owners"].items())
        accounts = [Facts((("shared", _words(found["shared"])), ("begun for", owned or NONE)))]
    return Outcome("Role", listed.items, blocks=(*listed.blocks, *accounts, verbs), names=listed.names)


def _words(values: Any) -> str:
    return ", ".join(values) or NONE


def _mark(row: Item, role: str) -> str:
    if role not in row["roles"]:
        return NONE
    return "person" if row["personal"] else "yes"


def of_user(found: Item, env: str | None, verb: str = "") -> Outcome:
    """What an account may do; with `verb`, whether it may do that one (exit 7 when it may not everywhere asked)."""
    envs = [one for one in found["envs"] if env in (None, one["env"])]
    _demand_env(env, envs, found["envs"])
    if verb:
        return _asked(found, envs, verb)
    facts = [
        ("user", f"{found['user']} (uid {found['uid']})"),
        ("groups", _words(found["groups"])),
    ]
    if found["person"] != found["user"]:
        facts.append(("answers", f"what it begins counts as begun by {found['person']}"))
    if found["impersonal"]:
        facts.append(("person", f"no: {found['impersonal']}"))
    grants = Table(
        ("ENV", "ROLE", "BECAUSE"),
        [(one["env"], role, why) for one in envs for role, why in one["roles"].items()],
    )
    verbs = Table(
        ("VERB", *(one["env"] for one in envs)),
        [(name, *(_answer(one["refusals"].get(name)) for one in envs)) for name in _verbs()],
    )
    return Outcome("Access", [found], blocks=(Facts(facts), grants, verbs), names=(f"user/{found['user']}",))


def _answer(refusal: str | None) -> str:
    """`yes`, or `no` with what the sentence says after the verb and the place, which the table's edges say already."""
    if refusal is None:
        return "yes"
    return f"no: {refusal.partition(': ')[2] or refusal}"


def _verbs() -> tuple[str, ...]:
    from engine.verbs import VERBS

    return tuple(VERBS)


def _asked(found: Item, envs: list[Any], verb: str) -> Outcome:
    if verb not in _verbs():
        raise UsageError(f"there is no verb {verb!r}", hint="`airboss help verbs` lists them", code="no_verb")
    refused = [(one["env"], one["refusals"][verb]) for one in envs if verb in one["refusals"]]
    if refused:
        raise Denied(
            "; ".join(f"{env}: {why}" for env, why in refused),
            hint=f"`airboss access show {found['user']}` has every role and its cause",
            code="role",
        )
    item = {"user": found["user"], "verb": verb, "envs": [one["env"] for one in envs], "may": True}
    return Outcome("Access", [item], blocks=(Facts((("may", f"{found['user']}: {verb} in {_words(item['envs'])}"),)),))


def _demand_env(env: str | None, kept: list[Any], every: Any) -> None:
    if env is not None and not kept:
        known = sorted({one["env"] for one in every})
        raise UsageError(f"there is no environment {env!r}", hint=f"there are: {_words(known)}", code="no_env")
