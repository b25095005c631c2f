"""What the API says of people: who has which role where, and what an account may do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class RoleRow(_Model):
    """Who has a role in an environment, as airboss.toml says it. `entries` empty: nobody by name."""

    env: str
    role: str
    entries: tuple[str, ...]
    people: tuple[str, ...]
    """The users that the entries mean on this host, shared accounts among them."""


class VerbRow(_Model):
    """A row of the verb × role table."""

    verb: str
    summary: str
    role: str
    roles: tuple[str, ...]
    """Those that may."""
    personal: bool
    """Never by uid 0 or a shared account."""


class AccessTable(_Model):
    """Who may what: the roles given, and what each role may."""

    roles: tuple[RoleRow, ...]
    verbs: tuple[VerbRow, ...]
    shared: tuple[str, ...]
    owners: dict[str, str]


class EnvAccess(_Model):
    """What one account may do in one environment."""

    env: str
    roles: dict[str, str]
    """role → because of what."""
    refusals: dict[str, str]
    """verb → why not; a verb that is missing may be done."""


class UserAccess(_Model):
    """What one account may do, and why."""

    user: str
    uid: int
    groups: tuple[str, ...]
    person: str
    """Who answers for what the account begins."""
    impersonal: str
    """Why no one person stands behind it; empty when one does."""
    envs: tuple[EnvAccess, ...]


class ApprovalView(_Model):
    """A person's yes or no."""

    by: str
    at: float
    decision: str
    reason: str
    plan: str
    is_void: bool
    """It was said of a plan that the rollout no longer has, or at another gate."""


class GateOfPeople(_Model):
    """What a rollout's plan is, and who has said what of it."""

    plan: str
    """sha256 of the plan; what is approved is this and no other."""
    at: str
    """Which gate counts now: `start`, or `step N`."""
    needed: int
    approvals: int
    expires_at: float | None
    said: tuple[ApprovalView, ...]


class GlassView(_Model):
    """Somebody went past what forbade a verb."""

    id: int
    rollout_id: str
    service: str
    env: str
    verb: str
    by: str
    at: float
    reason: str
    passed: str
    acked_by: str
    acked_at: float | None
    ack_reason: str


class FreezeView(_Model):
    """A freeze, a hold, or a window of airboss.toml: in force now, or the next one."""

    kind: str
    name: str
    env: str
    by: str
    reason: str
    since: float
    until: float
    in_force: bool


class HookView(_Model):
    """A hook, where it leads (never its secrets), and how its deliveries go."""

    name: str
    leads_to: str
    signed: bool
    events: tuple[str, ...]
    environments: tuple[str, ...]
    waiting: int
    failed: int
    told_at: float | None
    error: str
    """Of the delivery that is next, when its last try failed."""


class DeliveryView(_Model):
    """One event for one hook."""

    id: int
    hook: str
    delivery_id: str
    event: str
    ref: str
    state: str
    attempts: int
    next_at: float | None
    error: str
    created_at: float
    done_at: float | None
