"""Who asks, and whether they may. The author is the kernel's word (socket peer credentials), never a typed name."""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Iterable
from dataclasses import dataclass

from engine.api.schemas import VerbRequest
from engine.verbs import INCLUDES, VERBS, Confirm
from state.config import Config
from state.words import Denied, Role, UsageError

EVERYWHERE = "*"
"""Every environment, where one is named; no [roles.ENV] can be it."""
_READ_ONLY_TAKES = frozenset(
    {"rollback", "engine.down", "pipeline.run", "run.cancel", "run.retry", "note"}
    | {"trigger.pause", "trigger.resume"}
    | {"alert.ack", "alert.silence", "alert.unsilence"}
)
"""What a read-only environment lets through: the way back, and what leaves alone what it serves."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A person or program behind a request."""

    uid: int
    user: str
    groups: frozenset[str]

    @classmethod
    def of_uid(cls, uid: int) -> Actor:
        """The actor that the operating system knows as `uid`."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:
            return cls(uid, f"uid:{uid}", frozenset())
        return cls._of(entry)

    @classmethod
    def of_user(cls, user: str) -> Actor:
        """The actor named `user`. Raises UsageError when this host knows none."""
        try:
            return cls._of(pwd.getpwnam(user))
        except (KeyError, ValueError):
            raise UsageError(
                f"this host has no user {user!r}", hint="`getent passwd` lists those it has", code="no_user"
            ) from None

    @classmethod
    def _of(cls, entry: pwd.struct_passwd) -> Actor:
        names = set()
        for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
            try:
                names.add(grp.getgrgid(gid).gr_name)
            except KeyError:
                names.add(str(gid))
        return cls(entry.pw_uid, entry.pw_name, frozenset(names))

    @property
    def name(self) -> str:
        """As the audit log writes it."""
        return f"user:{self.user}"

    def entry_in(self, entries: Iterable[str]) -> str | None:
        """The first of these users and `group:NAME`s that means this actor."""
        for entry in entries:
            group = entry.removeprefix("group:")
            if entry == self.user or (group != entry and group in self.groups):
                return entry
        return None


@dataclass(frozen=True, slots=True)
class Grant:
    """A role that an actor has in an environment, and because of what."""

    role: Role
    because: str


def grants_of(config: Config, env: str, actor: Actor) -> tuple[Grant, ...]:
    """Every role of `actor` in `env`, each with its cause. Without [roles.ENV] the engine's own user is its admin."""
    everyone = Grant(Role.VIEWER, "everyone who reaches the engine's socket")
    table = config.roles.get(env)
    if table is None:
        if actor.uid in (os.getuid(), 0):
            return (everyone, Grant(Role.ADMIN, f"the engine's own user; there is no [roles.{env}]"))
        return (everyone,)
    found = [everyone]
    for role in Role:
        if (entry := actor.entry_in(getattr(table, role.value))) is not None:
            found.append(Grant(role, f"{entry!r} in roles.{env}.{role.value}"))
    return tuple(found)


def roles_of(config: Config, env: str, actor: Actor) -> set[Role]:
    """The roles of `actor` in `env`, without those that they include."""
    return {grant.role for grant in grants_of(config, env, actor)}


def refusal_of(config: Config, env: str, actor: Actor, verb: str) -> Denied | None:
    """Why `actor` may not do `verb` in `env`; None when they may."""
    needed = VERBS[verb].role
    if not any(needed in INCLUDES[role] for role in roles_of(config, env, actor)):
        return Denied(
            f"{actor.user} may not {verb} in {env}: it takes the role {needed.value}",
            hint=f"[roles.{env}] in airboss.toml gives roles to users and groups; `airboss access show` says who has which",
            code="role",
        )
    known = config.environment.get(env)
    if known is not None and known.read_only and verb not in _READ_ONLY_TAKES:
        return Denied(f"{env} is read-only", hint=f"environment.{env}.read_only in airboss.toml", code="read_only")
    return None


def demand(config: Config, env: str, actor: Actor, verb: str) -> None:
    """Raise Denied unless `actor` may do `verb` in `env`."""
    if refusal := refusal_of(config, env, actor, verb):
        raise refusal


def impersonal(config: Config, actor: Actor) -> str:
    """Why nobody in particular stands behind the account; empty when a person does."""
    if actor.uid == 0:
        return "uid 0 is nobody in particular"
    if actor.entry_in(config.people.shared) is not None:
        return f"{actor.user} is a shared account (people.shared)"
    return ""


def demand_person(config: Config, actor: Actor, verb: str) -> None:
    """Raise Denied when `verb` is one that a person must answer for, and the account is not one person's."""
    if VERBS[verb].personal and (why := impersonal(config, actor)):
        raise Denied(
            f"{actor.user} may not {verb}: {why}, and a person must answer for it",
            hint="do it as yourself"
            + ("; --break-glass --reason TEXT goes past it, and is flagged" if VERBS[verb].breakable else ""),
            code="impersonal",
        )


def environments(config: Config) -> tuple[str, ...]:
    """The environments that a verb without one of its own reaches: all, or `*` while the workspace has none."""
    return tuple(config.environment) or (EVERYWHERE,)


def demand_everywhere(config: Config, actor: Actor, verb: str) -> None:
    """Raise Denied unless `actor` may do `verb` in every environment."""
    for env in environments(config):
        demand(config, env, actor, verb)


def demand_somewhere(config: Config, actor: Actor, verb: str) -> None:
    """Raise Denied unless `actor` may do `verb` in one environment at least."""
    refusals = []
    for env in environments(config):
        refusal = refusal_of(config, env, actor, verb)
        if refusal is None:
            return
        refusals.append(refusal)
    raise refusals[0]


def demand_confirmation(request: VerbRequest, *, protected: bool, service: str) -> None:
    """Raise UsageError when the confirm ladder's rung for a verb was not climbed. `service` is the name that confirms."""
    verb = VERBS[request.verb]
    if request.break_glass and not verb.breakable:
        raise UsageError(f"{request.verb} has no glass to break", hint="leave --break-glass out", code="break_glass")
    rung = verb.confirm_in(protected, request.break_glass)
    if rung >= Confirm.NAME and request.confirm_name != service:
        raise UsageError(
            f"{request.verb} must be confirmed with the service's name",
            hint=f"add --confirm-name {service} (and --yes)",
            code="confirm_name",
        )
    if verb.asks_reason(protected, request.break_glass) and not request.reason.strip():
        raise UsageError(f"{request.verb} takes a reason", hint="add --reason TEXT", code="reason")
    if rung is Confirm.YES and not (request.yes or request.confirm_name == service):
        raise UsageError(f"{request.verb} must be confirmed", hint="add --yes", code="confirm")
