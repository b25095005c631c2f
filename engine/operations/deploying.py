"""`deploy`: everything that is checked and shown before a rollout begins, and its beginning."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlmodel import Session

from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.metrics_source import evidence_named
from engine.operations.approving import frozen_past
from engine.operations.desk import Desk, env_of, noun
from engine.operations.git_check import with_git
from engine.operations.image_check import with_image
from engine.rollouts import planning
from engine.rollouts.back.targets import ready_replicas
from engine.rollouts.back.warm import REPLACING, cheap_notes
from engine.rollouts.costing import cost_of
from engine.rollouts.deploy_plan import deploy_plan, refuse_blind_swap
from engine.rollouts.hotfix import hotfix_notes, hotfix_policy
from engine.rollouts.permitted import with_permissions
from engine.rollouts.previews import preview_of
from engine.rollouts.superseding import after_superseding, successor_of, supersede
from engine.rollouts.traits import changes_of_deploy, refuse_blocked, with_changes
from engine.rollouts.wanted import wanted_replicas
from state.words import Conflict, Strategy, UsageError

SUCCESSOR_WAIT_S = 5.0
"""A warm way back takes less; whoever asks for a deployment that supersedes another is answered after this at the latest."""


def _given_steps(given: object) -> tuple[int | str, ...]:
    if isinstance(given, list | tuple) and all(isinstance(one, int | str) for one in given):
        return tuple(given)
    raise UsageError(f"steps are weights or KIND=VALUE, not {given!r}", hint="--steps mirror=10,5,25", code="steps")


async def deploy(ops: Desk, request: VerbRequest, actor: Actor, *, again: bool = False) -> VerbResult:
    """Roll a release out; with `again`, one that was rolled back before."""
    service = noun(request, "service")
    wish = planning.Wish(
        supersedes=str(request.args.get("supersede") or "").removeprefix("rollout/"),
        service=service,
        env=env_of(ops.config, request),
        release_id=str(request.args.get("release", "")),
        steps=_given_steps(request.args.get("steps") or ()),
        strategy=str(request.args.get("strategy") or ""),
        force=bool(request.args.get("force")),
        again=again,
        break_glass=request.break_glass,
        hotfix=bool(request.args.get("hotfix")),
    )
    planning.check_names(ops.config, wish.service, wish.env)
    ops.permit(request, actor, wish.env, service)
    if wish.break_glass:
        env = wish.env
        wish = replace(wish, past=await ops.store.read(lambda s: frozen_past(s, ops, env, service)))
    active = await ops.store.read(lambda s: planning.active_rollout(s, service, wish.env))
    if request.dry_run and active is not None and active.to_release != wish.release_id:
        wish = replace(wish, supersedes=active.id)
    asked = wish
    stable = await ops.store.read(lambda s: planning.check_deploy(s, ops.config, asked))
    wanted = await ops.store.read(lambda s: wanted_replicas(s, ops.config, service, wish.env))
    policy = {**planning.policy_for(ops.config, wish), "replicas": wanted}
    if wish.hotfix:
        policy = hotfix_policy(policy, request.reason)
    changes = await ops.store.read(
        lambda s: changes_of_deploy(s, ops.config, service, wish.env, stable, wish.release_id)
    )
    cost = await cost_of(ops.controller.world, service, wish.env, stable, wish.release_id)
    plan = with_changes(
        deploy_plan(
            service,
            wish.env,
            wish.release_id,
            stable,
            policy,
            cost,
            preview_of(ops.config, service, wish.env, wish.release_id, ops.public_url()),
        ),
        changes,
    )
    if evidence := evidence_named(ops.config, service, wish.env):
        judged = PlanLine(object=f"{wish.env} evidence", field="judged by", before="", after=evidence)
        plan = plan.model_copy(update={"lines": (*plan.lines, judged)})
    plan = await _with_hotfix_notes(ops, wish, stable, policy, plan)
    # What a rolling update or a swap gives up is in their own words.
    cheap = cheap_notes(policy, stable, wish.release_id, cost.start_s) if policy["strategy"] not in REPLACING else ()
    plan = plan.model_copy(update={"warnings": (*plan.warnings, *cheap)})
    if wish.supersedes and active is not None:
        given_up = active
        plan = await ops.store.read(lambda s: after_superseding(s, ops.config, given_up, plan))
    if stable == wish.release_id:
        return VerbResult(
            verb="deploy", ref=request.ref, changed=False, message=f"unchanged: {stable} is live", plan=plan
        )
    if policy["strategy"] == Strategy.SWAP and stable is not None and not wish.force:
        refuse_blind_swap(wish.release_id, stable, int(policy["replicas"]), cost)
    if policy["strategy"] == Strategy.SHADOW and stable is None:
        raise Conflict(
            f"nothing of {service} is live in {wish.env}: there are no requests to copy",
            hint="the first release goes out as a canary, or by any other strategy",
            code="nothing_live",
        )
    plan = await with_permissions(ops.controller.world.runtime, wish.env, plan, dry_run=request.dry_run)
    begins = not (request.dry_run or wish.force)
    plan = await with_image(ops, service, wish.env, wish.release_id, plan, refuse=begins)
    plan = await with_git(ops, service, wish.env, plan, refuse=begins)
    if request.dry_run:
        return VerbResult(verb="deploy", ref=request.ref, changed=False, message="would roll out", plan=plan)
    if not (wish.force or wish.again):
        refuse_blocked(wish.release_id, stable, changes)

    def create(session: Session) -> str:
        if planning.check_deploy(session, ops.config, wish) != stable:
            raise Conflict(f"{service} in {wish.env} has moved since it was looked at", code="revision_moved")
        if wish.supersedes:
            return supersede(session, wish.supersedes, wish, policy, actor=actor.name, reason=request.reason)
        return planning.create_rollout(session, wish, stable, policy, actor=actor.name, reason=request.reason)

    rollout_id = await ops.store.write(create, urgent=bool(wish.supersedes))
    ops.controller.wake.set()
    if not rollout_id:
        rollout_id = await _successor(ops, wish.supersedes)
        if not rollout_id:
            return VerbResult(
                verb="deploy", ref=f"rollout/{wish.supersedes}", changed=True, plan=plan,
                message=f"{wish.supersedes} goes back first; {wish.release_id} begins by itself once it has",
            )  # fmt: skip
    ops.on_change(f"rollout/{rollout_id}", f"{actor.user} rolls {wish.release_id} out to {wish.env}")
    ops.controller.wake.set()
    return VerbResult(
        verb="deploy", ref=f"rollout/{rollout_id}", changed=True, revision=1, plan=plan,
        message=f"{rollout_id}: {wish.release_id} to {service} in {wish.env}",
    )  # fmt: skip


async def _with_hotfix_notes(
    ops: Desk, wish: planning.Wish, stable: str | None, policy: Mapping[str, Any], plan: PlanView
) -> PlanView:
    ready = await ops.store.read(lambda s: ready_replicas(s, wish.env, stable)) if stable else 0
    first = next((int(step["value"]) for step in policy["steps"] if step["kind"] == "weight"), 0)
    notes = hotfix_notes(
        wish.release_id, stable, ready=ready, wanted=policy["replicas"], is_hotfix=wish.hotfix, first_pct=first
    )
    return plan.model_copy(update={"warnings": (*notes, *plan.warnings)})


async def _successor(ops: Desk, rollout_id: str) -> str:
    """The rollout that begins once `rollout_id` has gone back; "" when that takes longer than a caller should wait."""
    deadline = time.monotonic() + SUCCESSOR_WAIT_S
    while time.monotonic() < deadline:
        found = await ops.store.read(lambda s: successor_of(s, rollout_id))
        if found:
            return found
        await asyncio.sleep(0.05)
    return ""
