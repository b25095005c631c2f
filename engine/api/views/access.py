"""Who may what, as the running configuration and this host's users and groups have it."""

from __future__ import annotations

import grp

from engine.access import Actor, environments, grants_of, impersonal, refusal_of
from engine.api.people_schemas import AccessTable, EnvAccess, RoleRow, UserAccess, VerbRow
from engine.verbs import VERBS, roles_that_may
from state.config import Config
from state.words import Role


def access_table(config: Config) -> AccessTable:
    """The roles given in each environment, and the verb × role table."""
    return AccessTable(
        roles=tuple(_role_row(config, env, role) for env in config.environment for role in Role),
        verbs=tuple(
            VerbRow(verb=v.name, summary=v.summary, role=v.role, roles=roles_that_may(v.name), personal=v.personal)
            for v in VERBS.values()
        ),
        shared=config.people.shared,
        owners=config.people.owners,
    )


def _role_row(config: Config, env: str, role: Role) -> RoleRow:
    table = config.roles.get(env)
    if table is None:
        entries = {Role.VIEWER: ("*",), Role.ADMIN: ("the engine's own user",)}.get(role, ())
        return RoleRow(env=env, role=role, entries=entries, people=())
    entries = getattr(table, role.value)
    people = sorted({user for entry in entries for user in _users_of(entry)})
    return RoleRow(
        env=env, role=role, entries=("*", *entries) if role is Role.VIEWER else entries, people=tuple(people)
    )


def _users_of(entry: str) -> tuple[str, ...]:
    """The users that an entry names; a group's are its listed members (those by primary group are not enumerable)."""
    group = entry.removeprefix("group:")
    if group == entry:
        return (entry,)
    try:
        return tuple(grp.getgrnam(group).gr_mem)
    except KeyError:
        return ()


def user_access(config: Config, actor: Actor) -> UserAccess:
    """What `actor` may do in each environment, with the cause of every role and of every refusal."""
    nobody = impersonal(config, actor)
    envs = []
    for env in environments(config):
        refusals = {verb: denied.message for verb in VERBS if (denied := refusal_of(config, env, actor, verb))}
        for verb in VERBS.values():
            if nobody and verb.personal:
                refusals.setdefault(verb.name, nobody)
        grants = grants_of(config, env, actor)
        envs.append(EnvAccess(env=env, roles={g.role.value: g.because for g in grants}, refusals=refusals))
    return UserAccess(
        user=actor.user, uid=actor.uid, groups=tuple(sorted(actor.groups)), envs=tuple(envs), impersonal=nobody,
        person=config.people.person_behind(actor.user),
    )  # fmt: skip
