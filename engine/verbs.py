"""The verb table: what each verb is, who may, how it is confirmed, and in which state it may run. Pure.

The TUI dims by it, the palette explains by it, scripts exit by it and the engine enforces it, so that they agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from state.words import Role, RolloutState, RunState, Strategy

_S = RolloutState


class Confirm(IntEnum):
    """How much a hand must say before a verb runs."""

    NONE = 0
    YES = 1
    NAME = 2
    NAME_AND_REASON = 3


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb. `confirm` holds in a protected environment, `relaxed` elsewhere; `key` is its key in the TUI."""

    name: str
    summary: str
    role: Role
    confirm: Confirm
    relaxed: Confirm
    key: str = ""
    personal: bool = False
    """A decision that a named person answers for: no superuser, no shared account."""
    reasoned: bool = False
    """It takes a reason wherever it is done: somebody will read it."""
    breakable: bool = False
    """`--break-glass` may go past the approval, the freeze or the second person that stands in its way."""

    def confirm_in(self, protected: bool, break_glass: bool = False) -> Confirm:
        """The rung of the confirm ladder for an environment; breaking the glass stands on the highest."""
        if break_glass:
            return Confirm.NAME_AND_REASON
        return self.confirm if protected else self.relaxed

    def asks_reason(self, protected: bool, break_glass: bool = False) -> bool:
        """Whether it must say why."""
        return self.reasoned or self.confirm_in(protected, break_glass) is Confirm.NAME_AND_REASON


_TABLE = (
    Verb("deploy", "roll a release out", Role.OPERATOR, Confirm.NAME, Confirm.YES, breakable=True),
    Verb("rollback", "return a service to its last good release", Role.OPERATOR, Confirm.YES, Confirm.YES, "b"),
    Verb("release.stage", "say what a release is good for", Role.REGISTRAR, Confirm.YES, Confirm.YES, reasoned=True),
    Verb("release.import", "take over a release of another workspace", Role.REGISTRAR, Confirm.YES, Confirm.NONE),
    Verb("registry.import", "make a registry's version a release", Role.REGISTRAR, Confirm.YES, Confirm.NONE),
    Verb("rollout.promote", "go to the next step", Role.OPERATOR, Confirm.YES, Confirm.YES, "p", breakable=True),
    Verb(
        "rollout.promote_full",
        "go to 100 % at once, skipping gates",
        Role.APPROVER,
        Confirm.NAME_AND_REASON,
        Confirm.NAME,
        personal=True,
        breakable=True,
    ),
    Verb("rollout.weight", "set the canary's weight", Role.OPERATOR, Confirm.NAME, Confirm.YES, breakable=True),
    Verb("rollout.pause", "stand still", Role.OPERATOR, Confirm.NONE, Confirm.NONE, "z"),
    Verb("rollout.resume", "go on", Role.OPERATOR, Confirm.YES, Confirm.YES, "z", breakable=True),
    Verb("rollout.abort", "give the rollout up and return to stable", Role.OPERATOR, Confirm.YES, Confirm.YES, "x"),
    Verb("rollout.adopt", "accept the weights that are there", Role.OPERATOR, Confirm.NAME, Confirm.YES),
    Verb(
        "rollout.retry",
        "roll the same release out again",
        Role.OPERATOR,
        Confirm.NAME,
        Confirm.YES,
        "t",
        breakable=True,
    ),
    Verb(
        "rollout.approve",
        "approve a waiting rollout",
        Role.APPROVER,
        Confirm.YES,
        Confirm.YES,
        personal=True,
        breakable=True,
    ),
    Verb("rollout.reject", "refuse a waiting rollout", Role.APPROVER, Confirm.YES, Confirm.YES, reasoned=True),
    Verb("hold", "stop all automatic movement for a while", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("unhold", "let automatic movement go on", Role.OPERATOR, Confirm.YES, Confirm.YES),
    Verb("freeze.start", "forbid forward changes until a time", Role.APPROVER, Confirm.YES, Confirm.YES, reasoned=True),
    Verb("freeze.end", "end a freeze", Role.APPROVER, Confirm.YES, Confirm.YES),
    Verb(
        "glass.ack",
        "acknowledge that somebody went past the rules",
        Role.APPROVER,
        Confirm.YES,
        Confirm.YES,
        personal=True,
    ),
    Verb("hook.test", "send a hook a test event", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("hook.redeliver", "try a delivery again, now", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("pipeline.run", "run a pipeline", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("dataset.build", "make data of users' feedback", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("trigger.pause", "let a trigger start nothing", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("trigger.resume", "let a trigger start runs again", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("trigger.approve", "let a trigger start the run it proposes", Role.APPROVER, Confirm.YES, Confirm.YES),
    Verb("run.cancel", "stop a run", Role.OPERATOR, Confirm.YES, Confirm.YES, "x"),
    Verb("run.retry", "run what failed again", Role.OPERATOR, Confirm.NONE, Confirm.NONE, "t"),
    Verb("alert.ack", "say that somebody looks at it", Role.OPERATOR, Confirm.NONE, Confirm.NONE, "a"),
    Verb("alert.silence", "no notification until a time", Role.OPERATOR, Confirm.NAME, Confirm.YES, "m"),
    Verb("alert.unsilence", "end a silence", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("service.restart", "end one replica gently and start another", Role.OPERATOR, Confirm.YES, Confirm.YES),
    Verb("service.scale", "have so many replicas", Role.OPERATOR, Confirm.YES, Confirm.YES),
    Verb("service.scale_down", "have fewer replicas than there are", Role.OPERATOR, Confirm.NAME, Confirm.YES),
    Verb("note", "leave a note", Role.OPERATOR, Confirm.NONE, Confirm.NONE, "n"),
    Verb("drill.start", "fail something on purpose, and measure", Role.OPERATOR, Confirm.NAME_AND_REASON, Confirm.YES),
    Verb("drill.finish", "record what a drill measured", Role.OPERATOR, Confirm.NONE, Confirm.NONE),
    Verb("state.adopt", "record what the gateway serves, after a restore", Role.ADMIN, Confirm.NAME, Confirm.YES),
    Verb("state.enforce", "serve what is recorded, after a restore", Role.ADMIN, Confirm.NAME, Confirm.YES),
    Verb(
        "config.apply",
        "let the file's roles, policies, environments and freezes hold",
        Role.ADMIN,
        Confirm.NAME_AND_REASON,
        Confirm.YES,
    ),
    Verb("engine.down", "stop the engine; what serves goes on", Role.ADMIN, Confirm.YES, Confirm.YES),
    Verb("engine.drain", "stop the engine and everything it serves", Role.ADMIN, Confirm.NAME_AND_REASON, Confirm.YES),
)
VERBS = {verb.name: verb for verb in _TABLE}
BACK = ("rollback", "rollout.abort")
"""Verbs that mean the same from wherever their rollout has moved since it was shown: they are not refused for that."""

INCLUDES: dict[Role, frozenset[Role]] = {
    Role.VIEWER: frozenset({Role.VIEWER}),
    Role.OPERATOR: frozenset({Role.VIEWER, Role.OPERATOR}),
    Role.APPROVER: frozenset({Role.VIEWER, Role.OPERATOR, Role.APPROVER}),
    Role.REGISTRAR: frozenset({Role.VIEWER, Role.REGISTRAR}),
    Role.ADMIN: frozenset(Role),
}
"""role → the roles whose verbs it may do. Who keeps the registry moves no traffic, and the other way round."""


def roles_that_may(verb: str) -> tuple[Role, ...]:
    """The row of the verb × role table."""
    return tuple(role for role in Role if VERBS[verb].role in INCLUDES[role])


_MOVING = frozenset(
    {
        _S.PREPARING,
        _S.SHADOWING,
        _S.STEP_APPLYING,
        _S.STEP_BAKING,
        _S.AWAITING_PROMOTION,
        _S.PROMOTING,
        _S.VERIFYING,
    }
)
_JUDGED = (_S.SHADOWING, _S.STEP_BAKING, _S.PAUSED, _S.AWAITING_PROMOTION)
_NO_WEIGHT = {
    Strategy.BLUE_GREEN: "blue-green has no weights between none and all; `promote` goes on",
    Strategy.ROLLING: "a rolling update's weight follows its ready replicas",
    Strategy.SWAP: "a swap's weight follows its replicas",
    Strategy.SHADOW: "a shadow gets copies of requests and no users; `promote` gives it users",
}
_GOES_ONLY_BACK = "a rollback, once begun, only goes on"
_OVER = "the rollout is over"


def rollout_refusal(verb: str, state: RolloutState, step_kind: str = "", strategy: str = "") -> str | None:
    """Why `verb` may not run on a rollout in `state`; None when it may. One row a verb, every state named.

    `step_kind` is the kind of the step that it stands at (weight, pause, approval, ...): a step may be a gate of its own.
    `strategy` is how it moves: not every one has weights to set.
    """
    at_approval = step_kind == "approval"
    if verb in ("rollback", "rollout.abort"):
        if state is _S.ROLLING_BACK:
            return "it is rolling back already"
        if state in (_S.ROLLED_BACK, _S.CANCELLED, _S.SUPERSEDED):
            return f"it is {state.value.replace('_', ' ')}; there is nothing to return from"
        if state is _S.COMPLETED and verb == "rollout.abort":
            return "it has completed; `rollback` returns to the release before"
        return None
    if verb == "rollout.retry":
        return (
            None
            if state.is_terminal and state is not _S.COMPLETED
            else "only an ended, failed rollout can be tried again"
        )
    if verb in ("rollout.approve", "rollout.reject"):
        waits = state is _S.AWAITING_APPROVAL or (state is _S.STEP_BAKING and at_approval)
        return None if waits else "it does not wait for an approval"
    if state is _S.ROLLING_BACK:
        return _GOES_ONLY_BACK
    if state.is_terminal:
        return _OVER
    if verb == "rollout.adopt":
        return None if state in (_S.STUCK, _S.PAUSED) else "nothing is in its way"
    if state is _S.STUCK:
        return "it is stuck: `adopt` what is there, or roll it back"
    if verb == "rollout.pause":
        return "it is paused already" if state is _S.PAUSED else None if state in _MOVING else "it has not begun"
    if verb == "rollout.resume":
        return None if state is _S.PAUSED else "it is not paused"
    # Paused or not: a hand that moves the steps on would pass the gate without the approver's role.
    if at_approval and verb in ("rollout.promote", "rollout.weight") and state in (_S.STEP_BAKING, _S.PAUSED):
        return "it waits for an approval"
    if verb == "rollout.promote":
        if state in _JUDGED:
            return None
        return {
            _S.AWAITING_APPROVAL: "it waits for an approval first",
            _S.PLANNED: "it has not begun",
            _S.PREPARING: "its replicas are not ready yet",
            _S.STEP_APPLYING: "its weight is being set",
            _S.PROMOTING: "it is being promoted already",
            _S.VERIFYING: "it is at 100 % already",
        }.get(state, "not in this state")
    if verb == "rollout.weight" and strategy in _NO_WEIGHT:
        return _NO_WEIGHT[Strategy(strategy)]
    if verb == "rollout.weight" and state is _S.SHADOWING:
        return "its requests are copies; `promote` goes on to the next step"
    if verb in ("rollout.promote_full", "rollout.weight"):
        return None if state in _JUDGED else "no step is being judged"
    return f"{verb} is no verb of a rollout"


ROLLOUT_VERBS = (
    "rollout.promote",
    "rollout.promote_full",
    "rollout.weight",
    "rollout.pause",
    "rollout.resume",
    "rollout.abort",
    "rollout.adopt",
    "rollout.retry",
    "rollout.approve",
    "rollout.reject",
    "rollback",
)


def run_refusal(verb: str, state: RunState) -> str | None:
    """Why `verb` may not run on a pipeline run in `state`; None when it may."""
    if verb == "run.cancel":
        return "the run is over" if state.is_over else None
    if verb == "run.retry":
        if not state.is_over:
            return "the run is still going"
        return "the run succeeded" if state.is_good else None
    return f"{verb} is no verb of a run"


def alert_refusal(verb: str, state: str, acked: bool) -> str | None:
    """Why `verb` may not run on an alert; None when it may."""
    if verb == "alert.ack":
        if state != "active":
            return "it has resolved"
        return "somebody has acknowledged it already" if acked else None
    return None
