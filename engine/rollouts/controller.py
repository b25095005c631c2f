"""The controller: read the row, read the world, decide (pure), journal the intent, act, journal the outcome.

It is level-triggered and keeps nothing that matters in memory: killed at any instruction, the next engine goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from adapters.ports import MetricsSource
from engine.rollouts import effects as fx
from engine.rollouts import journal, records, step_rows
from engine.rollouts.at_once import commit_with_return, publish_return
from engine.rollouts.by_hand import apply_verb
from engine.rollouts.lookout import Copies, Lookout, no_copies
from engine.rollouts.machine import next_move
from engine.rollouts.moves import roll_back
from engine.rollouts.superseding import start_waiting
from engine.rollouts.values import Facts, Move
from engine.rollouts.verdict import Verdict
from engine.rollouts.world import World
from engine.verbs import BACK
from state.config import Config
from state.store import Store
from state.words import AirbossError, Conflict, RolloutState

log = logging.getLogger("airboss.rollouts")

TICK_S = 0.5
EFFECT_TIMEOUT_S = 60.0
FORWARD = ("rollout.promote", "rollout.promote_full", "rollout.resume")


@dataclass(frozen=True, slots=True)
class Controller:
    """Moves every active rollout. `on_change(ref, message)` tells the consoles."""

    store: Store
    world: World
    metrics: MetricsSource
    config: Config
    on_change: Callable[[str, str], None]
    wake: asyncio.Event
    pairs: Copies = no_copies
    _going: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _in_hand: set[int] = field(default_factory=set)
    """Intents that are being carried out just now."""

    async def run(self) -> None:
        """Tick until cancelled. Each rollout has a task of its own: one that hangs or fails stops no other."""
        try:
            while True:
                # Cleared before looking: a change that comes while we look must be looked at too.
                self.wake.clear()
                await self._look()
                # Not `wait_for`: in 3.11 it loses a cancellation that comes as the event does, and the engine never ends.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self.wake.wait()
        finally:
            for task in self._going.values():
                task.cancel()
            await asyncio.gather(*self._going.values(), return_exceptions=True)

    async def _look(self) -> None:
        try:
            active = await self.store.read(records.active_ids)
        except AirbossError as error:
            log.error("rollouts cannot be read: %s", error)
            return
        for rollout_id in active:
            self._go(rollout_id, partial(self.tick, rollout_id))
        self._go("what ended rollouts left", self.finish_effects)
        self._go("what waits for their end", self.start_waiting)
        self._go("retire", self.world.retire)

    def _go(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        before = self._going.get(name)
        if before is None or before.done():
            self._going[name] = asyncio.create_task(_guarded(name, work), name=name)
            self._going[name].add_done_callback(lambda _: self._forget_done())

    def _forget_done(self) -> None:
        for name in [n for n, task in self._going.items() if task.done()]:
            del self._going[name]

    async def tick(self, rollout_id: str) -> None:
        """One look at one rollout: at most one state change, then the effects it wants."""
        seen = await self.store.read(lambda s: records.opened(s, rollout_id))
        if seen is None or seen.now.state.is_terminal:
            return
        facts = await self._facts(seen)
        move = next_move(seen.now, facts)
        verdict = facts.verdict
        if verdict is not None and (verdict.kind.value, verdict.sentence) != seen.last_verdict:
            await self._keep_verdict(seen, verdict, urgent=move.state is RolloutState.ROLLING_BACK)
        if await self._commit(seen, move):
            await self._carry_out(rollout_id)

    async def _keep_verdict(self, seen: records.Opened, verdict: Verdict, *, urgent: bool) -> None:
        try:
            await self.store.write(lambda s: records.record_verdict(s, seen, verdict), urgent=urgent)
        except AirbossError as error:
            if not urgent:
                raise
            # The way back does not wait for its own explanation.
            log.error("%s: the verdict could not be kept: %s", seen.now.id, error)

    async def verb(
        self,
        rollout_id: str,
        verb: str,
        actor: str,
        reason: str,
        expect_revision: int | None,
        seen: records.Opened | None = None,
    ) -> str:
        """Apply a person's verb. Returns what happened. Raises Conflict when it may not, or the revision moved.

        `seen` is the rollout as the caller has just read it.
        """
        move, returns = await self._by_hand(rollout_id, verb, actor, reason, expect_revision, seen)
        self.return_now(rollout_id, returns)
        self.on_change(f"rollout/{rollout_id}", move.message)
        if not returns:
            self.wake.set()
        return move.message

    async def _by_hand(
        self,
        rollout_id: str,
        verb: str,
        actor: str,
        reason: str,
        expect_revision: int | None,
        seen: records.Opened | None,
    ) -> tuple[Move, Sequence[journal.PendingIntent]]:
        """Write what `verb` does. A way back is the same from wherever the rollout has moved meanwhile, and is not refused for it."""
        while True:
            seen = seen or await self.store.read(lambda s: records.opened(s, rollout_id))
            if seen is None:
                raise Conflict(f"there is no rollout {rollout_id}", hint="`airboss rollout list` shows them")
            if verb not in BACK and expect_revision not in (None, seen.revision):
                raise Conflict(
                    f"{rollout_id} has moved since it was shown (revision {seen.revision}, shown {expect_revision})",
                    hint="look again, then decide",
                    code="revision_moved",
                )
            move, at = apply_verb(seen.now, verb, actor, reason), seen
            if verb in FORWARD:
                await self.demand_no_rollback(seen, verb)
            write = partial(commit_with_return, world=self.world, seen=at, move=move, actor=actor, reason=reason)
            is_done, returns = await self.store.write(write, urgent=move.state is RolloutState.ROLLING_BACK)
            if is_done:
                return move, returns
            if verb not in BACK:
                raise Conflict(
                    f"{rollout_id} moved at the same moment", hint="look again, then decide", code="revision_moved"
                )
            seen = None

    def return_now(self, rollout_id: str, intents: Sequence[journal.PendingIntent]) -> None:
        """Publish what a way back has meant by `want_return`, beside whatever the rollout's own task is busy with."""
        if intents:
            self._go(f"{rollout_id} returns", partial(self._publish_return, rollout_id, intents))

    async def _publish_return(self, rollout_id: str, intents: Sequence[journal.PendingIntent]) -> None:
        ours = {intent.id for intent in intents}
        self._in_hand.update(ours)
        try:
            async with asyncio.timeout(EFFECT_TIMEOUT_S):
                await publish_return(self.store, self.world, rollout_id, ours)
        except (AirbossError, TimeoutError, OSError) as error:
            log.warning("%s: the traffic could not be returned at once: %s", rollout_id, error)
        finally:
            self._in_hand.difference_update(ours)
            self.wake.set()

    async def _commit(self, seen: records.Opened, move: Move) -> bool:
        changes = (move.state, move.step) != (seen.now.state, seen.now.step)
        if not changes and not move.effects:
            return False
        urgent = move.state is RolloutState.ROLLING_BACK
        is_done, _ = await self.store.write(lambda s: commit_with_return(s, self.world, seen, move), urgent=urgent)
        if not is_done:
            return urgent and await self._overtake(seen.now.id, move.message)
        if changes:
            log.info("%s: %s → %s: %s", seen.now.id, seen.now.state, move.state, move.message)
            self.on_change(f"rollout/{seen.now.id}", move.message)
            self.wake.set()
        return True

    async def _overtake(self, rollout_id: str, why: str) -> bool:
        """Roll back although somebody moved the rollout at the same instant: the way back wins."""
        while True:
            seen = await self.store.read(lambda s: records.opened(s, rollout_id))
            if seen is None or seen.now.state.is_terminal or seen.now.state is RolloutState.ROLLING_BACK:
                return False
            move = roll_back(seen.now, why)
            at = seen
            is_done, _ = await self.store.write(lambda s: commit_with_return(s, self.world, at, move), urgent=True)  # noqa: B023
            if is_done:
                self.on_change(f"rollout/{rollout_id}", why)
                self.wake.set()
                return True

    async def demand_no_rollback(self, seen: records.Opened, verb: str) -> None:
        """Raise Conflict, and roll back, when that is what the world asks for at the instant of a forward verb."""
        move = next_move(seen.now, await self._facts(seen))
        if move.state is RolloutState.ROLLING_BACK:
            await self._commit(seen, move)
            raise Conflict(
                f"{verb} refused: {seen.now.id} rolls back at this instant: {move.message}",
                hint=f"`airboss rollout show {seen.now.id}` has the evidence",
                code="rollback_wins",
            )

    async def finish_effects(self) -> None:
        """Carry out what rollouts that have ended left pending (the registry's moves have a queue of their own)."""
        active = set(await self.store.read(records.active_ids))
        for intent in await self.store.read(lambda s: journal.pending(s, ("scale", "route"))):
            if intent.rollout_id not in active:
                await self._one(intent)

    async def start_waiting(self) -> None:
        """Begin the rollouts for which another was given up, once it has ended."""
        if not await self.store.read(lambda s: journal.pending_keys(s, records.SUCCESSOR)):
            return
        for rollout_id in await self.store.write(lambda s: start_waiting(s, self.config)):
            self.on_change(f"rollout/{rollout_id}", "begins: the rollout before it has gone back")
            self.wake.set()

    async def _carry_out(self, rollout_id: str) -> None:
        for intent in await self.store.read(lambda s: journal.pending(s, ("scale", "route"), rollout_id)):
            if intent.id not in self._in_hand:
                await self._one(intent)

    async def _one(self, intent: journal.PendingIntent) -> None:
        if 0 < intent.retry_at - time.time() < journal.LONGEST_WAIT_S:
            return
        # While the one before it was carried out, the rollout may have turned back: then this must not happen any more.
        seen, is_wanted = await self.store.read(
            lambda s: (records.opened(s, intent.rollout_id), journal.is_pending(s, intent.id))
        )
        if seen is None or not is_wanted:
            return
        try:
            async with asyncio.timeout(EFFECT_TIMEOUT_S):
                outcome = await self._effect(seen, intent)
        except (AirbossError, TimeoutError, OSError) as error:
            log.warning("%s: %s failed: %s", intent.rollout_id, intent.effect.says(), error)
            met, urgent = error, seen.now.state is RolloutState.ROLLING_BACK
            await self.store.write(lambda s: journal.failed(s, intent.id, met, is_urgent=urgent), urgent=True)
            return
        await self.store.write(lambda s: journal.close_intent(s, intent.id, outcome, done=True), urgent=True)
        self.wake.set()

    async def _effect(self, seen: records.Opened, intent: journal.PendingIntent) -> Mapping[str, Any]:
        effect = intent.effect
        if isinstance(effect, fx.Scale):
            place = (seen.service, seen.env, effect.release_id)
            if seen.now.state.is_terminal and not effect.replicas:
                goes = await self.world.stop(*place, effect.role)
                return {"replicas": 0} if goes else {"skipped": "it is wanted again"}
            if seen.now.state.is_terminal and await self.world.is_kept(*place, effect.role):
                return {"skipped": "it is wanted again"}
            await self.world.scale(seen.service, seen.env, effect.release_id, effect.replicas, effect.role)
            return {"replicas": effect.replicas}
        if isinstance(effect, fx.Route):
            if seen.now.state.is_terminal or (seen.now.state is RolloutState.ROLLING_BACK and not effect.reverts):
                return {"skipped": "the rollout has moved on"}
            revision = await self.world.route(seen, effect, lambda s: journal.is_pending(s, intent.id))
            await self.store.write(lambda s: step_rows.record_revision(s, seen.now.id, revision), urgent=True)
            return {"table_revision": revision}
        return {"skipped": "the registry has a queue of its own"}

    async def _facts(self, seen: records.Opened) -> Facts:
        return await Lookout(self.store, self.world, self.metrics, self.config, self.pairs).facts(seen)


async def _guarded(name: str, work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except AirbossError as error:
        log.error("%s: %s", name, error)
    except Exception:
        log.exception("%s failed; it is tried again", name)
