"""From a key and what the cursor is on to the verb it means, or to why not. Pure.

A call carries the revision that was on screen, so a key pressed on a stale screen is refused by the engine instead of
being applied to something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from console.tui.keymap import BY_ID
from console.tui.scene import Item
from engine.api.schemas import (
    AlertView,
    FleetRow,
    PlanView,
    ReleaseView,
    ReplicaView,
    RolloutView,
    RunView,
    Snapshot,
    VerbRequest,
)
from engine.verbs import VERBS, Confirm
from state.words import PauseReason, RolloutState

SILENCE_MINUTES = 60


@dataclass(frozen=True, slots=True)
class VerbCall:
    """A verb on an object, ready to be confirmed and sent."""

    verb: str
    ref: str
    service: str = ""
    env: str = ""
    protected: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)
    expect_revision: int | None = None
    plan: PlanView | None = None
    break_glass: bool = False

    @property
    def rung(self) -> Confirm:
        """How much a hand must say first."""
        verb = VERBS.get(self.verb)
        return verb.confirm_in(self.protected, self.break_glass) if verb else Confirm.YES

    @property
    def asks_reason(self) -> bool:
        """Whether a hand must say why."""
        verb = VERBS.get(self.verb)
        return verb is not None and verb.asks_reason(self.protected, self.break_glass)

    @property
    def summary(self) -> str:
        """The verb in words."""
        verb = VERBS.get(self.verb)
        return verb.summary if verb else self.verb

    @property
    def name(self) -> str:
        """What is typed where a name is asked for: the service's."""
        return self.service or self.ref.partition("/")[2] or self.ref

    def request(self, *, dry_run: bool = False, reason: str = "", confirm_name: str = "") -> VerbRequest:
        """The request for the engine; a real one says that it was confirmed."""
        return VerbRequest(
            verb=self.verb,
            ref=self.ref,
            args=dict(self.args),
            expect_revision=self.expect_revision,
            dry_run=dry_run,
            reason=reason,
            yes=not dry_run,
            confirm_name=confirm_name,
            break_glass=self.break_glass,
        )


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a key does nothing here."""

    reason: str


Choice = VerbCall | Refused


def refusal(key_id: str, item: Item | None, snapshot: Snapshot | None) -> str:
    """Why a key is dimmed; empty when it is not."""
    key = BY_ID[key_id]
    if not key.acts:
        return ""
    if item is None or snapshot is None:
        return "nothing is selected"
    if key_id == "promote":
        choices = promote_choices(item, snapshot)
        if isinstance(choices, Refused):
            return choices.reason
        reasons = [c.choice.reason for c in choices if isinstance(c.choice, Refused)]
        return reasons[0] if len(reasons) == len(choices) else ""
    choice = choose(key_id, item, snapshot)
    return choice.reason if isinstance(choice, Refused) else ""


def choose(key_id: str, item: Item, snapshot: Snapshot) -> Choice:
    """The verb that a key means on an object."""
    if key_id == "note":
        return VerbCall("note", ref_of(item), service=_service(item))
    if isinstance(item, RunView):
        return _run(key_id, item)
    if isinstance(item, AlertView):
        return _alert(key_id, item, snapshot)
    if key_id == "ack":
        return Refused("this is no alert")
    rollout = rollout_of(item, snapshot)
    if key_id == "rollback" and isinstance(item, FleetRow):
        return _fleet_rollback(item, rollout)
    if rollout is None:
        return Refused(f"{_name(item)} has no rollout")
    for verb in BY_ID[key_id].verbs:
        if verb.startswith("ro") and verb not in rollout.refusals:
            return on_rollout(verb, rollout)
    reasons = [rollout.refusals[v] for v in BY_ID[key_id].verbs if v in rollout.refusals]
    if key_id == "pause" and rollout.state != RolloutState.PAUSED:
        return Refused(reasons[0])
    return Refused(reasons[-1] if reasons else "it may not run here")


def on_rollout(verb: str, rollout: RolloutView, **args: Any) -> VerbCall:
    """A verb on a rollout, with the revision and the plan as shown."""
    plan = {"rollout.promote": rollout.promote_plan, "rollback": rollout.rollback_plan}.get(verb)
    ref = f"rollout/{rollout.id}"
    if verb == "rollback":
        ref, args = f"service/{rollout.service}", {"env": rollout.env, **args}
    return VerbCall(verb, ref, rollout.service, rollout.env, rollout.protected, args, rollout.revision, plan)


def _fleet_rollback(row: FleetRow, rollout: RolloutView | None) -> Choice:
    if rollout is not None and not RolloutState(rollout.state).is_terminal:
        reason = rollout.refusals.get("rollback")
        return Refused(reason) if reason else on_rollout("rollback", rollout)
    # No rollout is going: whether there is a release to return to is the engine's to say, in the panel.
    return VerbCall("rollback", f"service/{row.service}", row.service, row.env, row.protected, {"env": row.env})


def _run(key_id: str, run: RunView) -> Choice:
    verb = {"abort": "run.cancel", "retry": "run.retry"}.get(key_id, "")
    reason = run.refusals.get(verb)
    return Refused(reason) if reason else VerbCall(verb, f"run/{run.id}")


def _alert(key_id: str, alert: AlertView, snapshot: Snapshot) -> Choice:
    verb = {"ack": "alert.ack", "silence": "alert.silence"}.get(key_id, "")
    reason = alert.refusals.get(verb)
    if reason:
        return Refused(reason)
    args = {"minutes": SILENCE_MINUTES} if verb == "alert.silence" else {}
    return VerbCall(verb, f"alert/{alert.id}", alert.service, alert.env, is_protected(alert.env, snapshot), args)


@dataclass(frozen=True, slots=True)
class MenuChoice:
    """A line of the promote menu."""

    key: str
    label: str
    choice: Choice
    asks: str = ""
    """The argument it asks for first: a whole number."""
    asks_for: str = "canary's weight, 1 to 100"
    most: int = 100
    """The number is from 1 to this."""
    fewer: tuple[int, str] = (0, "")
    """A number below the first is another verb, the second."""

    def with_number(self, number: int) -> VerbCall:
        """The call with the number that was asked for. Only of a choice that may run."""
        assert isinstance(self.choice, VerbCall)
        call = with_args(self.choice, **{self.asks: number})
        below, verb = self.fewer
        return replace(call, verb=verb) if number < below else call


def promote_choices(item: Item, snapshot: Snapshot) -> tuple[MenuChoice, ...] | Refused:
    """The promote menu of an object's rollout, each line with its call or why not."""
    rollout = rollout_of(item, snapshot)
    if rollout is None:
        return Refused(f"{_name(item)} has no rollout to promote")

    def choice(verb: str) -> Choice:
        reason = rollout.refusals.get(verb)
        return Refused(reason) if reason else on_rollout(verb, rollout)

    lines: tuple[MenuChoice, ...] = (
        MenuChoice("n", "next step", choice("rollout.promote")),
        MenuChoice("w", "set the canary's weight…", choice("rollout.weight"), asks="weight"),
        MenuChoice("f", "to 100 % at once, skipping gates", choice("rollout.promote_full")),
    )
    if rollout.state == RolloutState.STUCK or rollout.pause_reason == PauseReason.DRIFT:
        lines = (MenuChoice("d", "adopt the weights that are there", choice("rollout.adopt")), *lines)
    if "rollout.approve" not in rollout.refusals:
        lines = (
            MenuChoice("a", "approve", choice("rollout.approve")),
            MenuChoice("r", "refuse", choice("rollout.reject")),
            *lines,
        )
    return lines


def with_args(call: VerbCall, **args: Any) -> VerbCall:
    """The call with more arguments, and so without the plan it had."""
    return replace(call, args={**call.args, **args}, plan=None)


def rollout_of(item: Item, snapshot: Snapshot) -> RolloutView | None:
    """The rollout an object is about: itself, or the one its service is in."""
    if isinstance(item, RolloutView):
        return item
    if isinstance(item, FleetRow) and item.rollout_id:
        return next((r for r in snapshot.rollouts if r.id == item.rollout_id), None)
    return None


def is_protected(env: str, snapshot: Snapshot) -> bool:
    """Whether an environment is protected; one that nothing is known of is."""
    rows = [row.protected for row in snapshot.fleet if row.env == env]
    return any(rows) if rows else bool(env)


def call_of_request(request: VerbRequest, snapshot: Snapshot | None) -> VerbCall:
    """What a line typed after `:` asks for, with the environment it touches."""
    kind, _, name = request.ref.partition("/")
    service, env = (name if kind == "service" else ""), str(request.args.get("env", ""))
    revision = request.expect_revision
    if snapshot is not None:
        if kind == "rollout":
            found = next((r for r in snapshot.rollouts if r.id == name), None)
            if found is not None:
                service, env, revision = found.service, found.env, revision or found.revision
        elif kind == "alert":
            alert = next((a for a in snapshot.alerts if str(a.id) == name), None)
            service, env = (alert.service, alert.env) if alert else ("", "")
        elif kind == "service" and not env:
            envs = [row.env for row in snapshot.fleet if row.service == name]
            env = envs[0] if len(envs) == 1 else ""
        elif kind == "env":
            env = name
        elif kind == "engine":
            service = snapshot.status.name
    protected = is_protected(env, snapshot) if snapshot is not None and env else kind not in ("run", "pipeline")
    return VerbCall(
        request.verb,
        request.ref,
        service,
        env,
        protected,
        dict(request.args),
        revision,
        break_glass=request.break_glass,
    )


def ref_of(item: Item) -> str:
    """An object's reference."""
    if isinstance(item, RolloutView):
        return f"rollout/{item.id}"
    if isinstance(item, RunView):
        return f"run/{item.id}"
    if isinstance(item, ReleaseView):
        return f"release/{item.id}"
    if isinstance(item, AlertView):
        return f"alert/{item.id}"
    if hasattr(item, "service") and item.service:
        return f"service/{item.service}"
    return str(getattr(item, "ref", "") or "engine").replace(":", "/", 1)


def lineage_ref(item: Item) -> str:
    """The reference whose lineage is meant: a service in one environment, the release that a process serves."""
    if isinstance(item, ReplicaView) and item.release_id:
        return f"release/{item.release_id}"
    return f"service/{item.service}@{item.env}" if isinstance(item, FleetRow) else ref_of(item)


def _service(item: Item) -> str:
    return str(getattr(item, "service", ""))


def _name(item: Item) -> str:
    env = getattr(item, "env", "")
    return f"{_service(item)} in {env}" if env else ref_of(item)
