"""Who asks, and whether they may. The author is the kernel's word (socket peer credentials), never a typed name."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass

from engine.verbs import VERBS, Confirm
from state.config import Config
from state.words import Denied, Role, UsageError

EVERYWHERE = "*"
"""Every environment, where one is named; no [roles.ENV] can be it."""
_READ_ONLY_TAKES = frozenset(
    {"rollback", "engine.down", "pipeline.run", "run.cancel", "run.retry", "note"}
    | {"alert.ack", "alert.silence", "alert.unsilence"}
)
"""What a read-only environment lets through: the way back, and what leaves alone what it serves."""
_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.REGISTRAR: 0, Role.APPROVER: 2, Role.ADMIN: 3}


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
        names = set()
        for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
            try:
                names.add(grp.getgrgid(gid).gr_name)
            except KeyError:
                names.add(str(gid))
        return cls(uid, entry.pw_name, frozenset(names))

    @property
    def name(self) -> str:
        """As the audit log writes it."""
        return f"user:{self.user}"


def roles_of(config: Config, env: str, actor: Actor) -> set[Role]:
    """The roles of `actor` in `env`. Without [roles.ENV], the engine's own user is its admin and others view."""
    table = config.roles.get(env)
    if table is None:
        return {Role.ADMIN} if actor.uid in (os.getuid(), 0) else {Role.VIEWER}
    found = {Role.VIEWER}
    for role in Role:
        for entry in getattr(table, role.value):
            group = entry.removeprefix("group:")
            if entry == actor.user or (group != entry and group in actor.groups):
                found.add(role)
    return found


def demand(config: Config, env: str, actor: Actor, verb: str) -> None:
    """Raise Denied unless `actor` may do `verb` in `env`."""
    needed = VERBS[verb].role
    mine = roles_of(config, env, actor)
    if needed not in mine and max(_RANK[r] for r in mine) < _RANK[needed] + (needed is Role.REGISTRAR):
        raise Denied(
            f"{actor.user} may not {verb} in {env}: it takes the role {needed.value}",
            hint=f"[roles.{env}] in airboss.toml gives roles to users and groups",
            code="role",
        )
    known = config.environment.get(env)
    if known is not None and known.read_only and verb not in _READ_ONLY_TAKES:
        raise Denied(f"{env} is read-only", hint=f"environment.{env}.read_only in airboss.toml", code="read_only")


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
        try:
            return demand(config, env, actor, verb)
        except Denied as refusal:
            refusals.append(refusal)
    raise refusals[0]


def demand_confirmation(verb: str, *, protected: bool, service: str, yes: bool, confirm_name: str, reason: str) -> None:
    """Raise UsageError when the confirm ladder's rung for `verb` was not climbed."""
    rung = VERBS[verb].confirm_in(protected)
    if rung >= Confirm.NAME and confirm_name != service:
        raise UsageError(
            f"{verb} must be confirmed with the service's name",
            hint=f"add --confirm-name {service} (and --yes)",
            code="confirm_name",
        )
    if rung is Confirm.NAME_AND_REASON and not reason:
        raise UsageError(f"{verb} takes a reason", hint="add --reason TEXT", code="reason")
    if rung is Confirm.YES and not (yes or confirm_name == service):
        raise UsageError(f"{verb} must be confirmed", hint="add --yes", code="confirm")
