"""Verbs that move what is under way: rollback, and those of a rollout."""

from __future__ import annotations

import time
from functools import partial

from sqlmodel import Session, col, select

from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.adopting import adopt
from engine.operations.approving import break_for_move, decide, second_person_past
from engine.operations.deploying import deploy
from engine.operations.desk import Desk, env_of, noun
from engine.operations.told import demand_unmoved, with_who
from engine.people.freezes import demand_thawed, in_force
from engine.people.glass import still_frozen
from engine.rollouts import planning, records
from engine.rollouts.at_once import want_return
from engine.rollouts.back.reading import rollback_plan
from engine.rollouts.back.retarget import retarget
from engine.rollouts.back.targets import rollback_target
from engine.rollouts.by_hand import NOT_NOW, apply_verb
from engine.rollouts.journal import PendingIntent
from engine.verbs import BACK, VERBS, rollout_refusal
from state import audit
from state.config import Config
from state.models import Rollout
from state.words import Conflict, Denied, UsageError


async def rollback(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    service, env, seen = await ops.store.read(lambda s: _meant(s, ops.config, request))
    planning.check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    to = str(request.args["to"]) if request.args.get("to") else None
    active = seen.now.id if seen is not None else None
    if seen is not None and to is None:
        return await _abort_active(ops, request, actor, seen)
    await ops.store.read(
        lambda s: _demand_unmoved(s, service, env, request.expect_revision if active is None else None)
    )
    target = await ops.store.read(lambda s: rollback_target(s, service, env, to))
    if active is None and target == await ops.store.read(lambda s: planning.stable_release(s, service, env)):
        return VerbResult(verb="rollback", ref=request.ref, changed=False, message=f"unchanged: {target} is live")
    plan = await ops.store.read(lambda s: rollback_plan(s, ops.config, service, env, target))
    if request.dry_run:
        return VerbResult(
            verb="rollback", ref=request.ref, changed=False, message=f"would return to {target}", plan=plan
        )
    if seen is not None:
        going = seen
        said = await ops.store.write(
            lambda s: retarget(s, going, target, actor=actor.name, reason=request.reason), urgent=True
        )
        ops.on_change(f"rollout/{active}", said)
        ops.controller.wake.set()
        return VerbResult(verb="rollback", ref=f"rollout/{active}", changed=True, message=said, plan=plan)

    def begin(session: Session) -> tuple[str, tuple[PendingIntent, ...]]:
        begun = planning.create_rollback(
            session, ops.config, service, env, target, actor=actor.name, reason=request.reason
        )
        back = records.opened(session, begun)
        return begun, want_return(session, ops.controller.world, back) if back is not None else ()

    rollout_id, returns = await ops.store.write(begin, urgent=True)
    ops.controller.return_now(rollout_id, returns)
    ops.on_change(f"rollout/{rollout_id}", f"{actor.user} returns {service} in {env} to {target}")
    if not returns:
        ops.controller.wake.set()
    return VerbResult(
        verb="rollback", ref=f"rollout/{rollout_id}", changed=True, message=f"returning to {target}", plan=plan
    )


def _demand_unmoved(session: Session, service: str, env: str, shown: int | None) -> None:
    """Raise Conflict when the newest rollout is no longer the one, at the revision, that the asker was shown.

    A key pressed while the judge rolls back by itself must not then roll the good release back too.
    """
    query = select(Rollout).where(Rollout.service == service, Rollout.env == env)
    newest = session.exec(query.order_by(col(Rollout.created_at).desc())).first()
    if shown is not None and newest is not None and newest.revision != shown:
        raise Conflict(
            f"{service} in {env} has moved since it was shown: {newest.id} is {newest.state}",
            hint="look again, then decide",
            code="revision_moved",
        )


def _meant(session: Session, config: Config, request: VerbRequest) -> tuple[str, str, records.Opened | None]:
    """Service, environment and active rollout that a rollback is about, in one read."""
    kind, _, name = request.ref.partition("/")
    if kind == "rollout":
        row = session.get(Rollout, name)
        if row is None:
            raise Conflict(f"there is no rollout {name}", hint="`airboss rollout list` shows them")
        service, env = row.service, row.env
    else:
        service, env = noun(request, "service"), env_of(config, request)
    active = planning.active_rollout(session, service, env)
    return service, env, records.opened(session, active.id) if active is not None else None


async def _abort_active(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    """End the rollout. Its plan is for those who look before; who acts does not wait for it."""
    rollout_id, back = seen.now.id, seen.now.from_release
    if request.dry_run:
        plan = None
        if back is not None:
            plan = await ops.store.read(lambda s: rollback_plan(s, ops.config, seen.service, seen.env, back))
        apply_verb(seen.now, "rollback", actor.name, request.reason)
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would end {rollout_id}",
                          plan=plan, revision=seen.revision)  # fmt: skip
    message = await ops.controller.verb(
        rollout_id, "rollback", actor.name, request.reason, request.expect_revision, seen
    )
    return VerbResult(verb=request.verb, ref=f"rollout/{rollout_id}", changed=True, message=message)


async def rollout_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """A verb of a rollout. One that its state forbids is refused, and the refusal is audited."""
    try:
        return await _rollout_verb(ops, request, actor)
    except Conflict as refusal:
        if not request.dry_run and refusal.code in (NOT_NOW, "rollback_wins"):
            await _audit_refusal(ops, request, actor, refusal)
        raise


async def _audit_refusal(ops: Desk, request: VerbRequest, actor: Actor, refusal: Conflict) -> None:
    await ops.store.write(
        lambda s: audit.append(
            s, actor=actor.name, action="rollout.refused", ref=request.ref.replace("/", ":", 1), reason=request.reason,
            detail={"verb": request.verb, "message": refusal.message},
        )
    )  # fmt: skip


async def _rollout_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    rollout_id = noun(request, "rollout")
    seen = await ops.store.read(lambda s: records.opened(s, rollout_id))
    if seen is None:
        raise Conflict(f"there is no rollout {rollout_id}", hint="`airboss rollout list` shows them", code="no_rollout")
    ops.permit(request, actor, seen.env, seen.service)
    if request.verb not in BACK:
        await ops.store.read(lambda s: demand_unmoved(s, seen, request.expect_revision))
    try:
        return await _on_rollout(ops, request, actor, seen)
    except Conflict as error:
        said = partial(with_who, rollout_id=rollout_id, shown=request.expect_revision, refused=error)
        raise await ops.store.read(said) from error


async def _on_rollout(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    rollout_id = seen.now.id
    if request.verb == "rollout.abort":
        return await _abort_active(ops, request, actor, seen)
    if request.verb == "rollout.retry":
        apply_verb_check(seen, "rollout.retry")
        args = {"release": seen.now.to_release, "env": seen.env}
        wish = request.model_copy(update={"verb": "deploy", "ref": f"service/{seen.service}", "args": args})
        return await deploy(ops, wish, actor, again=True)
    if request.verb in ("rollout.approve", "rollout.reject"):
        apply_verb_check(seen, request.verb)
        return await decide(ops, request, actor, seen)
    if request.verb == "rollout.adopt":
        apply_verb_check(seen, request.verb)
        return await adopt(ops, request, actor, seen)
    if request.verb in _FORWARD and not request.dry_run:
        apply_verb_check(seen, request.verb)
        await _pass_forward(ops, request, actor, seen)
    if request.verb == "rollout.weight":
        return await _set_weight(ops, request, actor, seen)
    move = apply_verb(seen.now, request.verb, actor.name, request.reason)
    plan = PlanView(
        verb=request.verb,
        ref=request.ref,
        lines=(
            PlanLine(object=rollout_id, field="state", before=_standing(seen.now.state, seen.now.step),
                     after=_standing(move.state, move.step)),
        ),
        warnings=("gates are skipped: nothing has shown that this release is good",)
        if request.verb in ("rollout.promote", "rollout.promote_full") else (),
    )  # fmt: skip
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message="would " + VERBS[request.verb].summary,
                          plan=plan, revision=seen.revision)  # fmt: skip
    message = await ops.controller.verb(rollout_id, request.verb, actor.name, request.reason, request.expect_revision)
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=message, plan=plan)


def _standing(state: str, step: int) -> str:
    return f"{state} (step {step + 1})" if state.startswith("step_") else str(state)


def apply_verb_check(seen: records.Opened, verb: str) -> None:
    """Raise Conflict with the table's reason when `verb` may not run on the rollout as it stands."""
    r = seen.now
    refusal = rollout_refusal(verb, r.state, r.steps[r.step].kind if r.step < len(r.steps) else "", r.strategy)
    if refusal:
        raise Conflict(f"{verb} refused: {seen.now.id}: {refusal}", code=NOT_NOW)


_FORWARD = ("rollout.promote", "rollout.promote_full", "rollout.weight", "rollout.resume")


async def _pass_forward(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> None:
    """What stands in the way of a hand that moves on: a freeze, one's own rollout. Or the glass is broken."""
    if request.break_glass:
        await ops.store.write(lambda s: break_for_move(s, ops, request, actor, seen.now.id))
        return
    frozen = await ops.store.read(
        lambda s: still_frozen(s, seen.now.id, in_force(s, ops.config, seen.env, seen.service, time.time()))
    )
    demand_thawed(frozen, request.verb)
    if request.verb == "rollout.promote_full":
        second_person_past(ops, request, actor, await ops.store.read(lambda s: s.get_one(Rollout, seen.now.id)))


async def _set_weight(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    apply_verb_check(seen, request.verb)
    weight = request.args.get("weight")
    if not isinstance(weight, int) or not 1 <= weight <= 99:
        raise UsageError(f"a weight is a whole percent from 1 to 99, not {weight!r}", hint="100 is `promote --full`")
    most = seen.now.weight_before_gate
    if most is not None and weight > most and not request.break_glass:
        raise Denied(
            f"{weight} % is refused: an approval is still to come, and the steps before it give {most} % at most",
            hint=f"`airboss rollout weight {seen.now.id} {max(most, 1)}`, or `promote` up to the approval",
            code="before_the_gate",
        )
    line = PlanLine(object=f"{seen.env} traffic", field=f"to {seen.now.to_release}", before=f"{seen.now.weight} %",
                    after=f"{weight} %")  # fmt: skip
    plan = PlanView(verb=request.verb, ref=request.ref, lines=(line,), warnings=("the step's evidence begins anew",))
    if request.dry_run:
        return VerbResult(
            verb=request.verb, ref=request.ref, changed=False, message="would set it", plan=plan, revision=seen.revision
        )
    await ops.controller.demand_no_rollback(seen, request.verb)
    if request.expect_revision not in (None, seen.revision) or not await ops.store.write(
        lambda s: records.set_weight(s, seen, weight, actor=actor.name, reason=request.reason)
    ):
        raise Conflict(
            f"{seen.now.id} has moved since it was shown", hint="look again, then decide", code="revision_moved"
        )
    ops.on_change(f"rollout/{seen.now.id}", f"weight {weight} % set by {actor.user}")
    ops.controller.wake.set()
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=f"{weight} %", plan=plan)
