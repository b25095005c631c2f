"""A way back played before anybody needs one: the first rollback of an engine is as quick as the hundredth.

An engine's first use of a statement compiles it, and the first rollback uses forty that nothing else does. They are used here
in a transaction that is never committed, on a rollout of an environment that is not there.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from sqlmodel import Session, col, select

from engine.rollouts import planning, records
from engine.rollouts.at_once import commit_with_return
from engine.rollouts.machine import next_move
from engine.rollouts.moves import roll_back
from engine.rollouts.values import Facts, ReplicaFacts
from engine.rollouts.world import World
from state import clock
from state.models import Rollout, TrackState
from state.policy_config import Policy
from state.store import Store
from state.words import AirbossError, RolloutState, Strategy

log = logging.getLogger("airboss.rollouts")
ENV = "(rehearsal)"
"""No environment can be called so."""


class Over(Exception):
    """The rehearsal has come to its end; nothing of it is kept."""


class _Answering(World):
    """The world with every replica there: the way back waits for none."""

    def ready(self, seen: records.Opened, release_id: str) -> int:
        return 1


async def rehearse(store: Store, world: World) -> None:
    """Play a way back with every statement that one needs, and keep nothing of it. A rehearsal that fails hinders nobody."""
    service = next(iter(world.config.service), None)
    if service is None:
        return
    try:
        await store.read(lambda s: _read(s, service))
        there = _Answering(world.store, world.runtime, world.router, world.config, world.plans)
        await store.write(lambda s: _play(s, there, service))
    except Over:
        return
    except AirbossError as error:
        log.warning("the way back could not be rehearsed: %s", error)


def _read(session: Session, service: str) -> None:
    """What is read before the first word is written."""
    planning.active_rollout(session, service, ENV)
    newest = session.exec(select(Rollout.id).order_by(col(Rollout.created_at).desc()).limit(1)).first()
    if newest is not None:
        records.opened(session, newest)


def _play(session: Session, world: World, service: str) -> None:
    """A canary at half, rolled back to the end. Raises Over."""
    moment, target = clock.now(), "local"
    policy = {
        **Policy().model_dump(mode="json"), "strategy": Strategy.CANARY.value, "replicas": 1,
        "steps": [{"kind": "weight", "value": 50.0}, {"kind": "weight", "value": 100.0}],
    }  # fmt: skip
    session.add(
        Rollout(
            id="ro-rehearsal", service=service, env=ENV, target=target, strategy=policy["strategy"], from_release="from",
            to_release="to", state=RolloutState.STEP_APPLYING.value, policy=policy, created_by=records.ENGINE,
            created_at=moment.utc, state_since=moment.utc, state_boot=moment.boot, state_mono=moment.mono,
        )
    )  # fmt: skip
    for track, release, weight in (("stable", "from", 50), ("canary", "to", 50)):
        session.add(
            TrackState(service=service, env=ENV, target=target, track=track, release_id=release, weight=weight,
                       rollout_id="ro-rehearsal", since=moment.utc)
        )  # fmt: skip
    session.flush()
    seen = _opened(session)
    routed = {"from": 50, "to": 50}
    there = Facts(1.0, 1.0, ReplicaFacts(1), ReplicaFacts(1), routed, known=(routed,), tracks=routed)
    commit_with_return(session, world, seen, next_move(seen.now, there))
    seen = _opened(session)
    _, returns = commit_with_return(session, world, seen, roll_back(seen.now, "rehearsed"))
    records.close_routes(session, seen.now.id, [one.id for one in returns], 0)
    seen = _opened(session)
    back = {"from": 100}
    commit_with_return(session, world, seen, next_move(seen.now, replace(there, weights=back, tracks=back)))
    session.flush()
    raise Over


def _opened(session: Session) -> records.Opened:
    seen = records.opened(session, "ro-rehearsal")
    assert seen is not None
    return seen
