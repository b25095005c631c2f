"""`release.stage`: a registrar says what a release is good for, outside of any rollout. It moves no traffic."""

from __future__ import annotations

import time

from sqlmodel import Session, col, or_, select

from engine.access import EVERYWHERE, Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, noun
from engine.rollouts import effects as fx
from engine.rollouts import journal, records
from state import audit
from state.models import Release, Rollout, TrackState
from state.words import Conflict, Lifecycle, UsageError

BY_HAND = (Lifecycle.DEVELOPMENT, Lifecycle.STAGING, Lifecycle.ARCHIVED, Lifecycle.REJECTED)
"""Production is what serves: a rollout alone makes it so."""


async def stage(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Set a release's stage; the registry's tag follows. A rejected one is not deployed any more, save with `--force`.

    Raises UsageError for a stage that no hand sets, Conflict for a release that serves or is being rolled out.
    """
    release_id, wanted = noun(request, "release"), _stage(str(request.args.get("stage") or ""))
    ops.permit(request, actor, EVERYWHERE, release_id)
    before = await ops.store.read(lambda s: _movable(s, release_id))
    said = f"{release_id} is {wanted.value}"
    if before == wanted:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"unchanged: {said} already")
    if request.dry_run:
        line = PlanLine(object=release_id, field="stage", before=before, after=wanted.value)
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would set: {said}",
                          plan=PlanView(verb=request.verb, ref=request.ref, lines=(line,)))  # fmt: skip

    def write(session: Session) -> None:
        was = _movable(session, release_id)
        release = session.get_one(Release, release_id)
        release.lifecycle = wanted.value
        if wanted is Lifecycle.REJECTED:
            release.rejected_reason = request.reason
        elif wanted is not Lifecycle.ARCHIVED:  # put away is not acquitted: what was rejected stays undeployable
            release.rejected_reason = ""
        session.add(release)
        journal.intend_stage(session, fx.RegistryMove(wanted.value, release_id, None), time.time())
        audit.append(session, actor=actor.name, action=request.verb, ref=f"release:{release_id}", reason=request.reason,
                     detail={"before": was, "after": wanted.value})  # fmt: skip

    await ops.store.write(write)
    ops.on_change(request.ref, f"{said}: {request.reason}")
    return VerbResult(verb=request.verb, ref=request.ref, changed=True, message=said)


def _stage(word: str) -> Lifecycle:
    for one in BY_HAND:
        if one.value.lower() == word.lower():
            return one
    allowed = ", ".join(one.value.lower() for one in BY_HAND)
    why = "a rollout makes a release Production" if word.lower() == "production" else f"there is no stage {word!r}"
    raise UsageError(why, hint=f"by hand: {allowed}", code="stage")


def _movable(session: Session, release_id: str) -> str:
    """The release's stage now. Raises UsageError when there is no such one, Conflict when traffic depends on it."""
    release = session.get(Release, release_id)
    if release is None:
        raise UsageError(
            f"there is no release {release_id!r}", hint="`airboss release list` shows them", code="no_release"
        )
    tracks = session.exec(select(TrackState).where(TrackState.release_id == release_id)).all()
    if tracks:
        where = ", ".join(f"{t.service} in {t.env} ({t.track})" for t in tracks)
        raise Conflict(f"{release_id} serves {where}", hint="roll another release out first", code="in_use")
    moving = (
        select(Rollout)
        .where(col(Rollout.state).in_(records.ACTIVE))
        .where(or_(col(Rollout.to_release) == release_id, col(Rollout.from_release) == release_id))
    )
    active = session.exec(moving).first()
    if active is not None:
        raise Conflict(
            f"{active.id} is moving {release_id} in {active.env}", hint="let it end, or abort it first", code="in_use"
        )
    return release.lifecycle
