"""Verbs that move traffic: deploy, rollback and those of a rollout."""

from __future__ import annotations

from sqlmodel import Session

from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, noun
from engine.rollouts import planning, records
from engine.rollouts.machine import apply_verb
from engine.verbs import VERBS, rollout_refusal
from state.models import Rollout
from state.words import Conflict, UsageError


async def deploy(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    service = noun(request, "service")
    wish = planning.Wish(
        service=service,
        env=env_of(ops.config, request),
        release_id=str(request.args.get("release", "")),
        steps=tuple(int(s) for s in request.args.get("steps") or ()),
        strategy=str(request.args.get("strategy") or ""),
        force=bool(request.args.get("force")),
    )
    planning.check_names(ops.config, wish.service, wish.env)
    ops.permit(request, actor, wish.env, service)
    stable = await ops.store.read(lambda s: planning.check_deploy(s, ops.config, wish))
    policy = planning.policy_for(ops.config, wish)
    plan = planning.deploy_plan(wish, stable, policy)
    if stable == wish.release_id:
        return VerbResult(
            verb="deploy", ref=request.ref, changed=False, message=f"unchanged: {stable} is live", plan=plan
        )
    if request.dry_run:
        return VerbResult(verb="deploy", ref=request.ref, changed=False, message="would roll out", plan=plan)

    def create(session: Session) -> str:
        planning.check_deploy(session, ops.config, wish)
        return planning.create_rollout(session, wish, stable, policy, actor=actor.name, reason=request.reason)

    rollout_id = await ops.store.write(create)
    ops.on_change(f"rollout/{rollout_id}", f"{actor.user} rolls {wish.release_id} out to {wish.env}")
    ops.controller.wake.set()
    return VerbResult(
        verb="deploy", ref=f"rollout/{rollout_id}", changed=True, revision=1, plan=plan,
        message=f"{rollout_id}: {wish.release_id} to {service} in {wish.env}",
    )  # fmt: skip


async def rollback(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    kind, _, name = request.ref.partition("/")
    if kind == "rollout":
        row = await ops.store.read(lambda s: s.get(Rollout, name))
        if row is None:
            raise Conflict(f"there is no rollout {name}", hint="`airboss rollout list` shows them")
        service, env = row.service, row.env
    else:
        service, env = noun(request, "service"), env_of(ops.config, request)
    planning.check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    to = str(request.args["to"]) if request.args.get("to") else None
    active = await ops.store.read(lambda s: _id_of(planning.active_rollout(s, service, env)))
    if active is not None and to is None:
        return await _abort_active(ops, request, actor, active, service, env)
    target = await ops.store.read(lambda s: planning.rollback_target(s, service, env, to))
    plan = await ops.store.read(lambda s: planning.rollback_plan(s, service, env, target))
    if request.dry_run:
        return VerbResult(
            verb="rollback", ref=request.ref, changed=False, message=f"would return to {target}", plan=plan
        )
    if active is not None:
        raise Conflict(
            f"{active} is moving; roll it back first, then return further", hint=f"airboss rollback {service}"
        )
    rollout_id = await ops.store.write(
        lambda s: planning.create_rollback(
            s, ops.config, service, env, target, actor=actor.name, reason=request.reason
        ),
        urgent=True,
    )
    ops.on_change(f"rollout/{rollout_id}", f"{actor.user} returns {service} in {env} to {target}")
    ops.controller.wake.set()
    return VerbResult(
        verb="rollback", ref=f"rollout/{rollout_id}", changed=True, message=f"returning to {target}", plan=plan
    )


async def _abort_active(
    ops: Desk, request: VerbRequest, actor: Actor, rollout_id: str, service: str, env: str
) -> VerbResult:
    seen = await ops.store.read(lambda s: records.opened(s, rollout_id))
    if seen is None:
        raise Conflict(f"there is no rollout {rollout_id}")
    plan = None
    if seen.now.from_release is not None:
        back = seen.now.from_release
        plan = await ops.store.read(lambda s: planning.rollback_plan(s, service, env, back))
    if request.dry_run:
        apply_verb(seen.now, "rollback", actor.name, request.reason)
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would end {rollout_id}",
                          plan=plan, revision=seen.revision)  # fmt: skip
    message = await ops.controller.verb(rollout_id, "rollback", actor.name, request.reason, request.expect_revision)
    return VerbResult(verb=request.verb, ref=f"rollout/{rollout_id}", changed=True, message=message, plan=plan)


def _id_of(row: Rollout | None) -> str | None:
    return row.id if row else None


async def rollout_verb(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    rollout_id = noun(request, "rollout")
    seen = await ops.store.read(lambda s: records.opened(s, rollout_id))
    if seen is None:
        raise Conflict(f"there is no rollout {rollout_id}", hint="`airboss rollout list` shows them", code="no_rollout")
    ops.permit(request, actor, seen.env, seen.service)
    if request.verb == "rollout.abort":
        return await _abort_active(ops, request, actor, rollout_id, seen.service, seen.env)
    if request.verb == "rollout.retry":
        apply_verb_check(seen, "rollout.retry")
        args = {"release": seen.now.to_release, "env": seen.env, "force": True}
        again = request.model_copy(update={"verb": "deploy", "ref": f"service/{seen.service}", "args": args})
        return await deploy(ops, again, actor)
    if request.verb in ("rollout.approve", "rollout.reject"):
        return await _approve(ops, request, actor, seen)
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
    refusal = rollout_refusal(verb, seen.now.state)
    if refusal:
        raise Conflict(f"{verb} refused: {seen.now.id}: {refusal}")


async def _set_weight(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    apply_verb_check(seen, request.verb)
    weight = request.args.get("weight")
    if not isinstance(weight, int) or not 1 <= weight <= 99:
        raise UsageError(f"a weight is a whole percent from 1 to 99, not {weight!r}", hint="100 is `promote --full`")
    line = PlanLine(object=f"{seen.env} traffic", field=f"to {seen.now.to_release}", before=f"{seen.now.weight} %",
                    after=f"{weight} %")  # fmt: skip
    plan = PlanView(verb=request.verb, ref=request.ref, lines=(line,), warnings=("the step's evidence begins anew",))
    if request.dry_run:
        return VerbResult(
            verb=request.verb, ref=request.ref, changed=False, message="would set it", plan=plan, revision=seen.revision
        )
    if request.expect_revision not in (None, seen.revision) or not await ops.store.write(
        lambda s: records.set_weight(s, seen, weight, actor=actor.name, reason=request.reason)
    ):
        raise Conflict(
            f"{seen.now.id} has moved since it was shown", hint="look again, then decide", code="revision_moved"
        )
    ops.on_change(f"rollout/{seen.now.id}", f"weight {weight} % set by {actor.user}")
    ops.controller.wake.set()
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=f"{weight} %", plan=plan)


async def _approve(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    apply_verb_check(seen, request.verb)
    decision = "approve" if request.verb == "rollout.approve" else "reject"
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would {decision} {seen.now.id}")
    await ops.store.write(lambda s: records.approve(s, seen, actor.name, decision, request.reason))
    ops.controller.wake.set()
    return VerbResult(
        verb=request.verb, ref=request.ref, changed=True, message=f"{actor.user}: {decision} {seen.now.id}"
    )
