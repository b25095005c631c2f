"""`rollout adopt`: take the weights that somebody else has set as they are."""

from __future__ import annotations

from sqlmodel import Session

from adapters.local.router import set_tracks
from adapters.ports import Backend, Route
from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk
from engine.rollouts import journal, records
from engine.rollouts.adopting import Adoption, adopted
from engine.rollouts.hindrance import nonzero
from state.models import Release
from state.words import Conflict, PauseReason, RolloutState, Track


async def adopt(ops: Desk, request: VerbRequest, actor: Actor, seen: records.Opened) -> VerbResult:
    """Go on from what the gateway has. Raises Conflict when nothing foreign is there, or only the way back is left."""
    r = seen.now
    if r.state is RolloutState.PAUSED and r.pause_reason != PauseReason.DRIFT:
        raise Conflict(
            f"{r.id} is paused ({r.pause_reason}); nobody else's weights are in its way",
            hint=f"`airboss rollout resume {r.id}`",
            code="nothing_to_adopt",
        )
    if r.replaces:
        raise Conflict(
            f"{r.id} gives each weight its replicas ({r.strategy}): weights of another hand have none behind them",
            hint=f"`airboss rollout resume {r.id}` sets its own again; `airboss rollout abort {r.id}` goes back",
            code="nothing_to_adopt",
        )
    weights, _ = await ops.controller.world.standing(seen.service, seen.env)
    adoption = adopted(r, weights, actor.name)
    if adoption.stable is not None and not ops.controller.world.ready(seen, adoption.stable):
        raise Conflict(
            f"{adoption.stable} has all traffic, and no replica of it that runs here answers: the next table would lose it",
            hint=f"`airboss rollback rollout/{r.id}` returns all traffic to {r.from_release}",
            code="not_adoptable",
        )
    meant = await ops.store.read(lambda s: journal.splits(s, r.id))
    plan = _plan(request, seen, adoption, dict(meant[-1]) if meant else {}, nonzero(weights or {}))
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message="would: " + adoption.says, plan=plan,
                          revision=seen.revision)  # fmt: skip
    if request.expect_revision not in (None, seen.revision) or not await ops.store.write(
        lambda s: _accept(s, ops, seen, adoption, actor.name, request.reason)
    ):
        raise Conflict(f"{r.id} has moved since it was shown", hint="look again, then decide", code="revision_moved")
    ops.on_change(request.ref, adoption.says)
    ops.controller.wake.set()
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=adoption.says, plan=plan)


def _accept(session: Session, ops: Desk, seen: records.Opened, adoption: Adoption, actor: str, reason: str) -> bool:
    """Row, tracks and audit in one transaction, so that no later table brings the refused weights back."""
    r = seen.now
    if adoption.move is not None:
        if not records.commit_move(session, seen, adoption.move, actor=actor, reason=reason):
            return False
    elif not records.set_weight(session, seen, adoption.weight or 0, actor=actor, reason=reason):
        return False
    backends: tuple[Backend, ...]
    if adoption.weight is not None:
        backends = (
            Backend(Track.STABLE, r.from_release or "", 100 - adoption.weight, ()),
            Backend(Track.CANARY, r.to_release, adoption.weight, ()),
        )
    elif adoption.stable is not None:
        _demand_release(session, seen.service, adoption.stable)
        backends = (Backend(Track.STABLE, adoption.stable, 100, ()),)
    else:
        return True
    settings = ops.config.service[seen.service]
    set_tracks(
        session,
        Route(seen.service, seen.env, seen.target, r.id, backends, settings.slo.latency_p95_ms, settings.deadline),
    )
    return True


def _demand_release(session: Session, service: str, release_id: str) -> None:
    row = session.get(Release, release_id)
    if row is None or row.service != service:
        raise Conflict(
            f"{release_id} has all traffic, and it is no release of {service} that is known here",
            hint=f"roll back, or import it first: `airboss release list --service {service}` shows those that are",
            code="not_adoptable",
        )


def _plan(
    request: VerbRequest, seen: records.Opened, adoption: Adoption, meant: dict[str, int], there: dict[str, int]
) -> PlanView:
    lines = [
        PlanLine(object=f"{seen.env} traffic", field=f"to {release}", before=f"meant {meant.get(release, 0)} %",
                 after=f"stays {there.get(release, 0)} %")
        for release in dict.fromkeys([*meant, *there])
    ]  # fmt: skip
    return PlanView(verb=request.verb, ref=request.ref, lines=tuple(lines), warnings=(adoption.says,))
