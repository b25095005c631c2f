"""Drives one run to its end: each stage after those it needs, tries and all, then the release, then the run's own end.

It can begin at any point of a run. What the record calls finished, and the cache confirms, is not repeated; a child that
still lives is adopted; everything else is done again. Cancelling the task stops the watching, never the children.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping

from sqlmodel import Session

from engine.pipelines import outcome, recorder, records, stage_records
from engine.pipelines.attempt import Done, Maker, Tried
from engine.pipelines.cache import OutputsChanged
from engine.pipelines.records import RunRecord, StageRecord
from engine.pipelines.spec import StageSpec
from engine.pipelines.workshop import Workshop
from state.words import AirbossError, OperationFailed, RunState

log = logging.getLogger(__name__)
MAX_ATTEMPTS = 10
"""Of one stage over all restarts: a stage that takes the engine down with it must not do so for ever."""


class Drive:
    """One run on its way."""

    def __init__(self, shop: Workshop, run: RunRecord) -> None:
        self._shop = shop
        self._run = run
        self._maker = Maker(shop, run, self._warm_next)
        self._begun: set[str] = set()
        self._warming: asyncio.Task[None] | None = None

    async def to_end(self) -> None:
        """Bring every stage to its end, make the release, close the run. Raises RunIsOver when somebody ended it."""
        tasks: dict[str, asyncio.Task[Done]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for spec in self._run.plan.pipeline.stages:
                    needs = [tasks[need] for need in spec.needs]
                    tasks[spec.name] = group.create_task(self._stage(spec, needs))
        except ExceptionGroup as troubles:
            if troubles.subgroup(records.RunIsOver):
                raise records.RunIsOver(self._run.id) from None
            raise troubles.exceptions[0] from None
        finally:
            self._shop.dismiss(self._run.id)
        await self._finish([task.result() for task in tasks.values()])

    async def _stage(self, spec: StageSpec, needs: list[asyncio.Task[Done]]) -> Done:
        inputs = {done.stage: done for done in [await need for need in needs]}
        self._begun.add(spec.name)
        record = self._run.stages[spec.name]
        if record.state.is_over and not record.state.is_good:
            return Done(spec.name, record.state, record.error)
        if missing := [done.stage for done in inputs.values() if not done.state.is_good]:
            why = f"{missing[0]} has no outputs"
            await self._maker.write(lambda s: stage_records.skip(s, self._run.id, spec.name, why, time.time()))
            return Done(spec.name, RunState.SKIPPED, why)
        if record.state.is_good and (kept := await self._kept(spec, record)):
            return kept
        self._warm_registry(spec)
        return await self._try_until_over(spec, inputs, record)

    def _warm_next(self, spec: StageSpec) -> None:
        """A stage's imports take longer than many a stage: those that can be next have theirs while `spec` runs."""
        for later in self._run.plan.pipeline.stages:
            is_next = spec.name in later.needs and self._begun.issuperset(later.needs)
            if is_next and not self._run.stages[later.name].state.is_over:
                self._shop.warm(self._run.id, later)

    def _warm_registry(self, spec: StageSpec) -> None:
        """The registry takes seconds to come up: it does so while the stage before the one that asks it runs."""
        stages = self._run.plan.pipeline.stages
        if self._warming is None and any(spec.name in later.needs and later.uses_registry for later in stages):
            self._warming = asyncio.create_task(self._registry_up())

    async def _registry_up(self) -> None:
        with contextlib.suppress(AirbossError):  # whoever needs it asks again, and says so then
            await self._shop.registry_socket()

    async def _kept(self, spec: StageSpec, record: StageRecord) -> Done | None:
        """The finished stage's outputs, or None when they are gone or modified."""
        place = self._shop.place(self._run.id, spec, record.key)
        try:
            manifest = await asyncio.to_thread(place.verified, record.key)
        except OutputsChanged as error:
            log.warning(
                "%s/%s: finished outputs are unusable (%s); the stage runs again", self._run.id, spec.name, error
            )
            return None
        if manifest is None:
            return None
        return Done(spec.name, record.state, "", manifest.digest, place, place.result().get("facts", {}))

    async def _try_until_over(self, spec: StageSpec, inputs: Mapping[str, Done], record: StageRecord) -> Done:
        """Attempt after attempt. One that died with its engine counts only towards MAX_ATTEMPTS, not the stage's retries."""
        orphan = record if record.state is RunState.RUNNING and record.spawn_id else None
        tries, made = 0, record.attempt - (orphan is not None)
        while True:
            tried = await (self._maker.adopt(spec, orphan) if orphan else self._maker.make(spec, inputs))
            end, made = tried.outcome, made + 1
            tries += orphan is None
            orphan = None
            again = end.retryable and tries <= spec.retries and made < MAX_ATTEMPTS
            wait_s = outcome.backoff_s(spec.backoff_s, tries) if again else None

            def write(session: Session, tried: Tried = tried, wait_s: float | None = wait_s) -> None:
                stage_records.end_attempt(
                    session, tried.attempt, tried.outcome, cause=tried.cause, now=time.time(), again_in_s=wait_s
                )

            await self._maker.write(write)
            if tried.attempt.spawn_id:
                await asyncio.to_thread(self._shop.cache.drop_aside, tried.attempt.spawn_id)
                self._shop.spawner.forget(tried.attempt.spawn_id)
            if wait_s is None:
                return tried.done
            await asyncio.sleep(wait_s)

    async def _finish(self, ended: list[Done]) -> None:
        bad = [done for done in ended if not done.state.is_good and done.state is not RunState.SKIPPED]
        if bad:
            await self._close(bad[0].state, f"{bad[0].stage}: {bad[0].error}")
            return
        maker = next((spec.name for spec in self._run.plan.pipeline.stages if spec.makes_release), None)
        if maker is None:
            await self._close(RunState.SUCCEEDED, "")
            return
        outputs = {done.stage: done.place.out for done in ended if done.place}
        facts = recorder.Facts.gather({done.stage: done.facts for done in ended}, outputs)
        release_id = await self._shop.store.write(lambda s: records.reserve_release(s, self._run.id))
        made, digest = outputs[maker] / recorder.BUNDLE, str(facts.release.get("digest", ""))
        try:
            published = await asyncio.to_thread(recorder.publish, made, self._shop.paths.releases, release_id, digest)
        except (OperationFailed, OSError) as trouble:
            hint = f"; {trouble.hint}" if isinstance(trouble, OperationFailed) else ""
            await self._close(RunState.FAILED, f"{maker}: {trouble}{hint}")
            return

        def write(session: Session) -> None:
            now = time.time()
            records.finish(session, self._run.id, RunState.SUCCEEDED, "", now)
            recorder.record(session, self._run, facts, published, now)

        await self._maker.write(write)
        self._shop.on_change(f"release:{release_id}")

    async def _close(self, state: RunState, error: str) -> None:
        await self._maker.write(lambda s: records.finish(s, self._run.id, state, error, time.time()))
