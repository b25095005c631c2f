"""The facts about rollouts that the alert rules look at, read from the store and the newest counts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlmodel import Session, col, select

from engine.observe.conditions import GitFact, GlassFact, RolloutFact
from engine.observe.prober import ProbeTarget
from engine.observe.rates import KEPT_S, Recent
from engine.observe.rules import FAILED_CANARY_SHOWN_S
from engine.people.glass import unacknowledged
from state.config import Config
from state.models import Rollout, RolloutStep, TrackState, VerdictRecord
from state.words import TERMINAL_STATES, RolloutState, Track

_OVER = [state.value for state in TERMINAL_STATES]


def probe_targets(session: Session, config: Config) -> tuple[ProbeTarget, ...]:
    """Every service and environment that users are routed to and that wants to be probed."""
    live = session.exec(select(TrackState.service, TrackState.env).where(col(TrackState.weight) > 0).distinct())
    return tuple(
        ProbeTarget(service, env, settings.prober_interval, settings.deadline)
        for service, env in sorted(live)
        if (settings := config.service.get(service)) is not None and settings.prober and env in config.environment
    )


def rollout_facts(session: Session, recent: Recent, now: float) -> tuple[RolloutFact, ...]:
    """Rollouts that move, and the newest of each service when it was rolled back a while ago."""
    lately = (col(Rollout.state) == RolloutState.ROLLED_BACK.value) & (
        col(Rollout.state_since) > now - FAILED_CANARY_SHOWN_S
    )
    rows = session.exec(
        select(Rollout).where(col(Rollout.state).not_in(_OVER) | lately).order_by(col(Rollout.created_at))
    )
    newest = {(row.service, row.env): row for row in rows}
    return tuple(_fact(session, row, recent, now) for row in newest.values())


def glass_facts(session: Session) -> tuple[GlassFact, ...]:
    """What somebody did past the rules, until somebody else has acknowledged it."""
    return tuple(
        GlassFact(row.id or 0, row.service, row.env, row.by, row.reason, row.passed) for row in unacknowledged(session)
    )


def rolled_back_in_git(session: Session, kept: Sequence[GitFact]) -> tuple[GitFact, ...]:
    """Of what Git keeps in clusters, the releases whose last rollout there was rolled back."""

    def last(one: GitFact) -> str | None:
        query = select(Rollout.state).where(
            Rollout.service == one.service, Rollout.env == one.env, Rollout.to_release == one.release
        )
        return session.exec(query.order_by(col(Rollout.created_at).desc())).first()

    return tuple(one for one in kept if last(one) == RolloutState.ROLLED_BACK)


def _fact(session: Session, row: Rollout, recent: Recent, now: float) -> RolloutFact:
    step = session.exec(
        select(RolloutStep)
        .where(RolloutStep.rollout_id == row.id, col(RolloutStep.table_revision) > 0)
        .order_by(col(RolloutStep.idx).desc())
    ).first()
    verdict = session.exec(
        select(VerdictRecord).where(VerdictRecord.rollout_id == row.id).order_by(col(VerdictRecord.id).desc())
    ).first()
    canary = session.get(TrackState, (row.service, row.env, row.target, Track.CANARY.value))
    counted = [
        count
        for count in recent.rows(row.service, row.env, now - KEPT_S)
        if step is not None and count.rollout_id == row.id and count.table_revision >= step.table_revision
    ]
    on_canary = [count for count in counted if count.track == Track.CANARY]
    return RolloutFact(
        id=row.id,
        service=row.service,
        env=row.env,
        to_release=row.to_release,
        state=RolloutState(row.state),
        state_since=row.state_since,
        pause_reason=row.pause_reason,
        message=row.message,
        verdict=verdict.kind if verdict else "",
        verdict_sentence=verdict.sentence if verdict else "",
        canary_weight=canary.weight if canary is not None and canary.release_id == row.to_release else 0,
        stable_requests=sum(count.requests for count in counted if count.track == Track.STABLE),
        canary_requests=sum(count.requests for count in on_canary),
        canary_attempt_failures=sum(count.attempt_failures for count in on_canary),
    )
