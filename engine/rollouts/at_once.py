"""What a way back wants first, wanted in the very transaction that begins it: traffic returns without another look."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from sqlmodel import Session

from engine.rollouts import effects as fx
from engine.rollouts import journal, records
from engine.rollouts.machine import next_move
from engine.rollouts.values import Facts, Move, ReplicaFacts
from engine.rollouts.world import World
from state.models import Rollout
from state.store import Store
from state.words import RolloutState


def want_return(session: Session, world: World, seen: records.Opened) -> tuple[journal.PendingIntent, ...]:
    """Write the intent and the tracks of `seen`, which rolls back from now on, if its target could take the traffic this instant.

    Nothing is wanted of one that has to start something first: the controller's next look sees to it. Returns what is
    pending; whoever has committed it publishes the table at once.
    """
    back = seen.now.from_release
    row = session.get(Rollout, seen.now.id)
    if row is None or back is None:
        return ()
    # That no weights are known makes the machine want them: absolute, so that it costs nothing where they are so already.
    stable = ReplicaFacts(ready=world.ready(seen, back))
    leaves, tracks = ReplicaFacts(ready=world.ready(seen, seen.now.to_release)), records.track_weights(session, seen)
    move = next_move(
        seen.now, Facts(state_s=0.0, step_s=0.0, stable=stable, canary=leaves, weights=None, tracks=tracks)
    )
    routes = [e for e in move.effects if isinstance(e, fx.Route)] if move.state is RolloutState.ROLLING_BACK else []
    for effect in routes:
        journal.intend(session, row, effect)
        world.router.mean(session, world.route_of(seen, effect))
    session.flush()
    return tuple(journal.pending(session, ("route",), seen.now.id)) if routes else ()


def commit_with_return(
    session: Session,
    world: World,
    seen: records.Opened,
    move: Move,
    *,
    actor: str = records.ENGINE,
    reason: str = "",
) -> tuple[bool, tuple[journal.PendingIntent, ...]]:
    """`records.commit_move`; a move that begins a way back also wants its first effect. Returns what is pending of that."""
    row = session.get(Rollout, seen.now.id)  # held here: a session reads a row anew when nobody holds it
    is_done = row is not None and records.commit_move(session, seen, move, actor=actor, reason=reason)
    begins = move.state is RolloutState.ROLLING_BACK and seen.now.state is not RolloutState.ROLLING_BACK
    if not (is_done and begins):
        return is_done, ()
    return True, want_return(session, world, replace(seen, now=replace(seen.now, state=move.state)))


async def publish_return(store: Store, world: World, rollout_id: str, intents: Collection[int]) -> None:
    """Have every worker serve what `want_return` has meant, and close its intents. Raises what the gateway raises."""
    revision = await world.router.publish()
    await store.write(lambda s: records.close_routes(s, rollout_id, intents, revision), urgent=True)
