"""Yes and no to a waiting rollout, and the glass: what is broken, and who looks at it afterwards."""

from __future__ import annotations

import time
from functools import partial

from sqlmodel import Session

from engine.access import Actor, impersonal
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, noun, row_number
from engine.operations.told import who_moved
from engine.people import approvals, glass
from engine.people.freezes import in_force
from engine.rollouts.records import Opened
from state.models import BrokenGlass, Release, Rollout
from state.words import Conflict, Denied, UsageError


async def decide(ops: Desk, request: VerbRequest, actor: Actor, seen: Opened) -> VerbResult:
    """Approve or reject the plan of a rollout that waits, as it stands now."""
    ref, rollout_id = request.ref, seen.now.id
    plan = await ops.store.read(lambda s: approval_plan(s, ops, request, s.get_one(Rollout, rollout_id)))
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=ref, changed=False, message=f"would {_word(request)} {rollout_id}",
                          revision=seen.revision, plan=plan)  # fmt: skip
    here = await ops.store.write(partial(_decide, ops, request, actor, seen))
    said = f"{actor.user}: {_word(request)} {rollout_id}, plan {here.plan[:12]}"
    if request.verb == "rollout.approve":
        said += f" ({here.approvals} of {here.needed} approvals)"
    ops.on_change(f"rollout/{rollout_id}", said)
    ops.controller.wake.set()
    return VerbResult(verb=request.verb, ref=ref, changed=True, message=said, plan=plan)


def _word(request: VerbRequest) -> str:
    return "break the glass for" if request.break_glass else request.verb.removeprefix("rollout.")


def _decide(ops: Desk, request: VerbRequest, actor: Actor, seen: Opened, session: Session) -> approvals.Gate:
    row = session.get_one(Rollout, seen.now.id)
    if (row.state, row.step) != (seen.now.state, seen.now.step):
        # It has gone on to its next gate, or has ended, since it was read: nobody said anything of that.
        who = who_moved(session, row.id, seen.revision)
        raise Conflict(
            f"{row.id} has moved since it was read: it is {row.state}" + (f"; {who}" if who else ""),
            hint="look again, then decide",
            code="revision_moved",
        )
    _demand_shown_plan(request, approvals.plan_hash(session, row))
    if request.verb == "rollout.reject":
        return approvals.say(session, row, actor.name, approvals.REJECT, request.reason)
    here = approvals.gate(session, row)
    past = second_person_past(ops, request, actor, row)
    if not request.break_glass:
        return approvals.say(session, row, actor.name, approvals.APPROVE, request.reason)
    past = (f"{here.needed - here.approvals} more approval(s)", *past, *frozen_past(session, ops, row.env, row.service))
    glass.break_glass(session, row, actor.name, request.verb, request.reason, past)
    return approvals.say(session, row, actor.name, approvals.BREAK_GLASS, request.reason)


def _demand_shown_plan(request: VerbRequest, plan: str) -> None:
    shown = str(request.args.get("plan") or "")
    if shown and (len(shown) < 8 or not plan.startswith(shown)):
        raise Conflict(
            f"the plan is {plan[:12]}, not {shown}: it has changed since it was looked at",
            hint=f"`airboss rollout show {request.ref.partition('/')[2]}` has the plan and its hash",
            code="plan_moved",
        )


def second_person_past(ops: Desk, request: VerbRequest, actor: Actor, row: Rollout) -> tuple[str, ...]:
    """Raise Denied when who began a rollout decides on it too; with the glass broken, what is gone past instead."""
    env = ops.config.environment.get(row.env)
    past = []
    try:
        approvals.demand_second_person(
            row, actor, ops.config.people, protected=env.protected if env else True, verb=request.verb
        )
    except Denied as refusal:
        if not request.break_glass:
            raise
        past.append(f"the second person ({refusal.message})")
    if why := impersonal(ops.config, actor):
        past.append(f"a person behind it ({why})")
    return tuple(past)


def frozen_past(session: Session, ops: Desk, env: str, service: str) -> tuple[str, ...]:
    """The freezes that a broken glass goes past."""
    return tuple(one.sentence for one in in_force(session, ops.config, env, service, time.time()))


def break_for_move(session: Session, ops: Desk, request: VerbRequest, actor: Actor, rollout_id: str) -> None:
    """A hand that moves a rollout on through a freeze, or its own without a second person."""
    row = session.get_one(Rollout, rollout_id)
    past = frozen_past(session, ops, row.env, row.service)
    if request.verb == "rollout.promote_full":
        past = (*second_person_past(ops, request, actor, row), *past)
    glass.break_glass(session, row, actor.name, request.verb, request.reason, past)


def approval_plan(session: Session, ops: Desk, request: VerbRequest, row: Rollout) -> PlanView:
    """What a yes or a no is about: the plan and its hash, who began it, and how many have said what."""
    here, release = approvals.gate(session, row), session.get(Release, row.to_release)
    steps = " → ".join(
        f"{step['value']:.0f} %" if step["kind"] == "weight" else step["kind"] for step in row.policy["steps"]
    )
    approves = request.verb == "rollout.approve"
    after = here.needed if request.break_glass else here.approvals + approves
    facts = (
        ("plan", "", here.plan[:12]),
        ("begun by", "", row.created_by + (f": {row.reason}" if row.reason else "")),
        ("release", row.from_release or "nothing", f"{row.to_release} (sha256 {release.digest[:12] if release else '?'})"),
        ("steps", "", steps),
        ("gate", "", "before the first step" if here.index == approvals.START else f"step {here.index + 1}"),
        ("approvals", f"{here.approvals} of {here.needed}", f"{after} of {here.needed}" if approves else "refused"),
    )  # fmt: skip
    warnings = [f"{one.by} approved an earlier plan ({one.plan_hash[:12] or 'unknown'}): that is void"
                for one in approvals.voided(session, row) if one.decision == approvals.APPROVE]  # fmt: skip
    if request.break_glass:
        warnings.append("the glass is broken: flagged on the fleet and in alerts until somebody else acknowledges it")
    lines = tuple(PlanLine(object=row.id, field=field, before=before, after=after) for field, before, after in facts)
    return PlanView(verb=request.verb, ref=request.ref, lines=lines, warnings=tuple(warnings))


async def glass_ack(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Say that one has looked at what somebody else did past the rules."""
    name = noun(request, "glass")
    number = row_number(name)
    if number is None:
        raise UsageError(f"{request.ref}: broken glasses have numbers", hint="`airboss break-glass list` shows them")
    broken = await ops.store.read(lambda s: s.get(BrokenGlass, number))
    if broken is None:
        raise Conflict(
            f"there is no broken glass {number}", hint="`airboss break-glass list` shows them", code="no_glass"
        )
    ops.permit(request, actor, broken.env, broken.service)
    said = f"glass {number}: {broken.by} in {broken.env}, acknowledged by {actor.user}"
    if not request.dry_run:
        await ops.store.write(lambda s: glass.acknowledge(s, number, actor, ops.config.people, request.reason))
        ops.on_change(f"glass/{number}", said)
    return VerbResult(verb=request.verb, ref=request.ref, changed=not request.dry_run, message=said)
