"""What people do in the simulated world: deploy, give up one rollout for another, press a verb. Refused ones change nothing."""

from __future__ import annotations

from dataclasses import replace

from machine_things import Game, Row
from machine_world import World

from engine.rollouts.by_hand import apply_verb
from engine.rollouts.moves import roll_back
from engine.rollouts.values import Move, RolloutNow, StepSpec
from state.words import Conflict, RolloutState, Strategy

S = RolloutState
BEGINS = ("deploy", "supersede", "hotfix")


def press(world: World, verb: str) -> None:
    """A person's verb on the active rollout, or on the service when none is."""
    row = world.active
    if row is None:
        _on_the_service(world, verb)
        return
    seen = world.present(row)
    if verb in ("supersede", "hotfix"):
        _supersede(world, row, _hotfix(world.game) if verb == "hotfix" else _policy(world))
    elif verb == "rollout.approve" and seen.state in (S.AWAITING_APPROVAL, S.STEP_BAKING):
        row.approvals += 1
    elif verb == "rollout.reject" and seen.state in (S.AWAITING_APPROVAL, S.STEP_BAKING):
        row.rejections += 1
    elif verb not in ("deploy", "rollout.weight"):
        try:
            move = apply_verb(seen, verb, "user:ann")
        except Conflict:
            return
        world.commit(row, seen, move, None)


def begin_what_waits(world: World) -> None:
    """Begin the rollout for which the newest was given up, once that has ended."""
    if world.rows and world.active is None and (game := world.rows[-1].waits) is not None:
        world.rows[-1].waits = None
        _deploy(world, world.rows[-1].now.successor, game)


def _on_the_service(world: World, verb: str) -> None:
    if verb in BEGINS:
        _deploy(world, _next_release(world), _hotfix(world.game) if verb == "hotfix" else _policy(world))
    elif verb == "rollback" and world.stable is not None:
        done = next((r.now for r in reversed(world.rows) if r.now.to_release == world.stable), None)
        if done is not None and done.state is S.COMPLETED and done.from_release is not None:
            # It goes by the policy that the live release came by.
            back = replace(done, id=_name(world), state=S.ROLLING_BACK, step=0, resume_state=None, pause_reason="")
            _insert(world, back)


def _supersede(world: World, row: Row, game: Game) -> None:
    """`engine.rollouts.superseding.supersede`: what has not begun ends at once, all else goes back first."""
    seen, wanted = world.present(row), _next_release(world)
    if seen.state in (S.PLANNED, S.AWAITING_APPROVAL):
        world.commit(row, seen, Move(S.SUPERSEDED, seen.step, (), "superseded"), None)
        _deploy(world, wanted, game)
        return
    if seen.from_release is None and seen.was_promoted:
        return
    came_late = seen.was_going_back if seen.successor else seen.state is S.ROLLING_BACK
    row.now, row.waits = replace(row.now, successor=wanted, was_going_back=came_late), game
    if seen.state is not S.ROLLING_BACK:
        world.commit(row, world.present(row), roll_back(seen, "superseded"), None)


def _deploy(world: World, release: str, game: Game) -> None:
    if release == world.stable:
        return
    _insert(
        world,
        RolloutNow(
            _name(world), S.PLANNED, 0, game.steps, world.stable, release, approvals_needed=game.approvals,
            auto_promote=game.auto_promote, replicas=game.replicas, prepare_timeout_s=game.prepare_timeout_s,
            strategy=game.strategy, has_baseline=game.has_baseline, surge=game.surge, unavailable=game.unavailable,
        ),
    )  # fmt: skip


def _policy(world: World) -> Game:
    return world.game.policy(len(world.rows))


def _hotfix(game: Game) -> Game:
    """All traffic at once, compared with nothing (`engine.rollouts.hotfix`)."""
    return replace(game, steps=(StepSpec("weight", 100),), strategy=Strategy.CANARY, has_baseline=False)


def _next_release(world: World) -> str:
    busy = {world.stable, *((world.active.now.to_release,) if world.active else ())}
    return next(f"r{n}" for n in (*range(1 + len(world.rows) % 3, 5), 1, 2) if f"r{n}" not in busy)


def _name(world: World) -> str:
    return f"ro-{len(world.rows) + 1}"


def _insert(world: World, now: RolloutNow) -> None:
    world.rows.append(Row(now, world.now, world.true_s))
