"""The invariants of a rollout (reference/delivery.md §C) as predicates over what just happened. Each says what broke, or None.

I1, I2, I3, I6, I10 and I11 are about rows, transactions and people: `engine_room.py` asserts them on the real store.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import machine_world
from machine_things import Moved, Routed, Scaled
from machine_world import World

from engine.rollouts.by_hand import apply_verb
from engine.rollouts.values import Facts, RolloutNow
from state.words import Conflict, PauseReason, RolloutState, Strategy, VerdictKind

S = RolloutState
ONE_TICK_S = 0.5
FORWARD = {S.STEP_APPLYING, S.PROMOTING, S.AWAITING_PROMOTION, S.COMPLETED}


class Active(NamedTuple):
    """The active rollout as the machine reads it, and the facts it would decide by."""

    seen: RolloutNow
    facts: Facts


def i1_one_active_rollout(world: World, now: Active | None) -> Iterator[str]:
    """One rollout at a time moves a service."""
    if sum(not row.now.state.is_terminal for row in world.rows) > 1:
        yield "two rollouts move one service"


def i4_effects_are_absolute(world: World, now: Active | None) -> Iterator[str]:
    """The same row and the same facts give the same move, however often one asks."""
    if now is not None and machine_world.next_move(now.seen, now.facts) != machine_world.next_move(now.seen, now.facts):
        yield "asking twice gives two answers"


def i5_capacity_before_traffic(world: World, now: Active | None) -> Iterator[str]:
    """Weights sum to 100; none rises on a release that cannot answer; none is scaled down while it has weight."""
    for event in world.happened:
        if isinstance(event, Routed):
            if event.after and sum(event.after.values()) != 100:
                yield f"weights {event.after} are not 100"
            if len(event.after) > 2:
                yield f"three releases share the traffic: {event.after}"
            for release, weight in event.after.items():
                rises = weight > max(event.before.get(release, 0), event.meant.get(release, 0))
                if rises and release not in event.answered:
                    yield f"{release} was given {weight} % with no replica that answers"
                elif rises and event.ready and event.ready[release] < _share(event.mover, release, weight):
                    yield f"{release} was given {weight} % with {event.ready[release]} replicas that answer"
        if isinstance(event, Scaled) and not event.after and any(w.get(event.release_id) for w in event.weights):
            # A swap is a gap that was planned, and so is a rolling update whose every replica may be away.
            r = event.mover
            if not (r and r.replaces and r.unavailable >= r.replicas):
                yield f"{event.release_id} lost its replicas while it had traffic: {event.weights}"


def _share(r: RolloutNow | None, release: str, weight: int) -> int:
    """Replicas that a new release must have for its weight; the way back takes what there is."""
    is_new = r is not None and r.from_release is not None and release == r.to_release
    may_lack = r.unavailable if r is not None and r.replaces else 0
    return max(1, math.ceil(r.replicas * weight / 100) - may_lack) if is_new and r is not None else 1


def room_is_kept(world: World, now: Active | None) -> Iterator[str]:
    """A swap never has processes of both releases; a rolling update on its way there no more, and no fewer, than it said."""
    for event in world.happened:
        if not (isinstance(event, Scaled) and event.intended and event.alive):
            continue
        r = event.mover
        if (
            r is None
            or not r.replaces
            or r.from_release is None
            or event.release_id not in (r.from_release, r.to_release)
        ):
            continue
        old, new = event.alive.get(r.from_release, 0), event.alive.get(r.to_release, 0)
        if r.strategy is Strategy.SWAP and event.after > event.before and old and new:
            yield f"a swap has {old} of {r.from_release} and {new} of {r.to_release}"
        if r.state is S.ROLLING_BACK:
            continue
        if event.after > event.before and old + new > r.replicas + r.surge:
            yield f"{old} + {new} processes where {r.replicas} + {r.surge} may be"
        answering = event.after + event.ready.get(r.to_release, 0)
        if event.after < event.before and event.release_id == r.from_release and answering < r.replicas - r.unavailable:
            yield f"an old replica went while {answering} of {r.replicas} answer, and {r.unavailable} may be away"
        if event.after < event.before and event.wanted < r.replicas - r.unavailable:
            yield f"{event.wanted} replicas are left of {r.replicas}, and {r.unavailable} may be away"


def no_wait_is_without_end(world: World, now: Active | None) -> Iterator[str]:
    """What waits for a replica that never comes goes back, or pauses, once its time is over."""
    if now is None or now.seen.state not in (S.PREPARING, S.STEP_APPLYING, S.PROMOTING):
        return
    seen, facts = now
    is_late = facts.state_s > seen.prepare_timeout_s and not (facts.is_held or facts.is_frozen or seen.was_promoted)
    if is_late and not facts.canary.ready and machine_world.next_move(seen, facts).state is seen.state:
        yield f"{seen.state} waits for {seen.to_release} for ever"


def superseding_goes_through_stable(world: World, now: Active | None) -> Iterator[str]:
    """What takes another's place begins when stable has all traffic, by the tracks and at every worker that is up."""
    if len(world.rows) < 2 or world.rows[-1].now.state is not S.PLANNED or world.rows[-2].now.from_release is None:
        return
    before, begun = world.rows[-2].now, world.rows[-1].now
    if before.successor == begun.to_release and world.tracks != {begun.from_release: 100}:
        yield f"{begun.id} begins while the tracks say {world.tracks}"
    if before.successor and before.was_going_back and before.state is S.SUPERSEDED:
        yield f"{before.id} went back for a reason of its own and is called superseded"


def i7_rollback_is_always_legal(world: World, now: Active | None) -> Iterator[str]:
    """From every state that is not over; and no verdict, no registry is needed to go on back."""
    if now is None:
        return
    seen, facts = now
    if seen.state is S.ROLLING_BACK:
        if facts.verdict is not None:
            yield "the way back waits for a verdict"
    elif not (seen.from_release is None and seen.was_promoted):
        try:
            move = apply_verb(seen, "rollback", "user:ann")
        except Conflict as refusal:
            yield f"rollback refused in {seen.state}: {refusal.message}"
        else:
            if move.state not in (S.ROLLING_BACK, S.CANCELLED):
                yield f"rollback led to {move.state}"


def i7_rollback_only_goes_on(world: World, now: Active | None) -> Iterator[str]:
    """Once begun it never turns forward again."""
    ends = (S.ROLLED_BACK, S.CANCELLED, S.SUPERSEDED, S.STUCK)
    for event in world.happened:
        if isinstance(event, Moved) and event.before.state is S.ROLLING_BACK and event.move.state not in ends:
            yield f"rolling back turned into {event.move.state}"


def i8_no_evidence_is_never_a_pass(world: World, now: Active | None) -> Iterator[str]:
    """By itself it goes on only with a PASS, and back only with a FAIL or a guardrail; missing data can only pause."""
    for event in world.happened:
        if not isinstance(event, Moved) or event.facts is None:
            continue
        before, move, facts = event.before, event.move, event.facts
        kind = facts.verdict.kind if facts.verdict else None
        if before.state in (S.SHADOWING, S.STEP_BAKING, S.VERIFYING) and move.state in FORWARD:
            here = before.steps[before.step]
            settles = before.state is S.STEP_BAKING and here.settle_s is not None and facts.step_s >= here.settle_s
            step = "verify" if before.state is S.VERIFYING else "settled" if settles else here.kind
            if facts.is_held or facts.is_frozen:
                yield f"{before.state} went on in spite of a hold or a freeze"
            if step in ("weight", "analysis", "verify", "mirror", "header", "cookie") and kind is not VerdictKind.PASS:
                yield f"{step} went on with {kind}"
            if step == "approval" and facts.approvals < before.approvals_needed + before.steps[before.step].value:
                yield "an approval step went on without its approvals"
        if move.state is S.ROLLING_BACK and before.state is not S.ROLLING_BACK:
            crash = facts.canary.crash_loop or facts.canary.broken
            starts = before.state is S.PREPARING or (before.state is S.STEP_APPLYING and before.replaces)
            too_late = starts and facts.state_s > before.prepare_timeout_s
            if not (kind is VerdictKind.FAIL or crash or too_late or facts.rejections):
                yield f"{before.state} rolled back on {kind}"
            if facts.is_held and not facts.rejections:
                yield f"{before.state} rolled back in spite of a hold"


def i9_clock_steps_change_no_deadline(world: World, now: Active | None) -> Iterator[str]:
    """A wall clock that jumps neither ends a pause early nor fires a deadline early by more than a tick."""
    for event in world.happened:
        if not isinstance(event, Moved) or event.facts is None or event.has_rebooted:
            continue
        before, move = event.before, event.move
        step = before.steps[before.step]
        pauses = before.state is S.STEP_BAKING and step.kind == "pause" and move.state in FORWARD
        if pauses and event.true_step_s < step.value - ONE_TICK_S:
            yield f"a pause of {step.value} s ended after {event.true_step_s} s"
        settles = before.state is S.STEP_BAKING and step.settle_s is not None and move.state in FORWARD
        if settles and step.settle_s is not None and event.true_step_s < step.settle_s - ONE_TICK_S:
            yield f"a batch that settles in {step.settle_s} s went on after {event.true_step_s} s"
        is_too_late = "not ready within" in move.message or move.pause_reason == PauseReason.CAPACITY
        if is_too_late and event.true_state_s < before.prepare_timeout_s - ONE_TICK_S:
            yield f"the deadline to get ready fired after {event.true_state_s} s"


def i12_a_pass_is_used_once(world: World, now: Active | None) -> Iterator[str]:
    """Every judged step needs a verdict of its own."""
    used = [e.step_clock for e in world.happened if isinstance(e, Moved) and e.facts and e.move.consumes_verdict]
    if len(used) != len(set(used)):
        yield "one verdict moved two steps"


def i13_the_way_back_keeps_its_capacity(world: World, now: Active | None) -> Iterator[str]:
    """From the first step until `warm_hold` ends, the release one would return to keeps its replicas."""
    for row in world.rows:
        r = row.now
        if r.from_release is None or r.from_release == r.to_release or r.replaces:
            continue  # one that replaces replicas gives their room away: `room_is_kept` says how much
        is_warm = r.state is S.COMPLETED and world.true_s < row.warm_until_true
        moves = r.state not in (S.PLANNED, S.AWAITING_APPROVAL, S.ROLLING_BACK) and not r.state.is_terminal
        if (is_warm or moves) and world.of(r.from_release).wanted < 1:
            yield f"{r.from_release} has no replicas while {r.id} is {r.state}"


def in_the_end(world: World, now: Active | None) -> Iterator[str]:
    """When all is well again and a person has asked to go back: it is over, and the world is whole."""
    row = world.active
    if row is not None and row.now.from_release is not None:
        yield f"{row.now.id} never ends: {row.now.state}, weights {world.workers}"
    if any(worker != world.workers[0] for worker in world.workers):
        yield f"the workers disagree: {world.workers}"
    if row is None and world.stable is not None and world.workers[0] != {world.stable: 100}:
        yield f"{world.stable} is stable and the weights are {world.workers[0]}"
    for release, weight in world.workers[0].items():
        if weight and world.of(release).ready < world.game.replicas:
            yield f"{release} has {weight} % and {world.of(release).ready} of {world.game.replicas} replicas"


ALWAYS: tuple[Callable[[World, Active | None], Iterator[str]], ...] = (
    i1_one_active_rollout, i4_effects_are_absolute, i5_capacity_before_traffic, i7_rollback_is_always_legal,
    i7_rollback_only_goes_on, i8_no_evidence_is_never_a_pass, i9_clock_steps_change_no_deadline, i12_a_pass_is_used_once,
    i13_the_way_back_keeps_its_capacity, room_is_kept, no_wait_is_without_end, superseding_goes_through_stable,
)  # fmt: skip


def broken(world: World, *, is_healed: bool) -> str | None:
    """The first invariant that does not hold, by name."""
    row = world.active
    now = Active(world.present(row), world.facts(row)) if row is not None else None
    for claim in (*ALWAYS, *((in_the_end,) if is_healed else ())):
        for trouble in claim(world, now):
            return f"{claim.__name__}: {trouble}"
    return None
