"""The pipeline runner: starts, follows, cancels and resumes runs. What a run does is in `drive` and `attempt`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlmodel import Session

from adapters.local.spawn import Spawner
from engine.pipelines import planner, records, stage_records
from engine.pipelines.attempt import read_world
from engine.pipelines.cache import OutputsChanged
from engine.pipelines.drive import Drive
from engine.pipelines.records import RunPlan
from engine.pipelines.spec import Pipeline
from engine.pipelines.stages import command
from engine.pipelines.workshop import Workshop, end_group
from state.paths import Paths
from state.store import Store
from state.words import Conflict, OperationFailed, RunState, TimedOut

log = logging.getLogger(__name__)
REDRIVE_S = 5.0
"""After a trouble of the store (full disk, lock held), before the run is looked at again."""


class PipelineRunner:
    """Runs pipelines of one workspace. It holds no truth: a new one over the same store and paths goes on."""

    def __init__(
        self,
        store: Store,
        spawner: Spawner,
        paths: Paths,
        *,
        registry_socket: Callable[[], Awaitable[str]],
        on_change: Callable[[str], None],
        max_stages: int = 2,
    ) -> None:
        """`on_change` gets the reference (`run:run-4`) of each record that changed; `max_stages` run at one time."""
        self._shop = Workshop(store, spawner, paths, registry_socket, on_change, max_stages)
        self._drives: dict[str, asyncio.Task[None]] = {}

    async def plan(
        self,
        pipeline: Pipeline,
        *,
        overrides: Mapping[str, Any] | None = None,
        from_stage: str | None = None,
        force: bool = False,
        context: Mapping[str, Any] | None = None,
    ) -> tuple[planner.StagePlan, ...]:
        """What a run would do, stage by stage, and why. Writes nothing. Raises UsageError as `start` does."""
        pipeline = pipeline.with_values(overrides or {})
        world = await asyncio.to_thread(read_world, pipeline, pipeline.stages, dict(context or {}))
        kept = {s.name: await self._shop.previous(None, pipeline.name, s.name) for s in pipeline.stages}
        world = replace(world, previous={name: made_of for name, made_of in kept.items() if made_of})
        return await asyncio.to_thread(self._settle, pipeline, world, from_stage, force)

    async def start(
        self,
        pipeline: Pipeline,
        *,
        overrides: Mapping[str, Any],
        actor: str,
        reason: str,
        from_stage: str | None = None,
        force: bool = False,
        context: Mapping[str, Any],
        also: Callable[[Session, str], None] = lambda session, run_id: None,
    ) -> str:
        """Write a new run and set it going; returns its id at once. `also` writes with it, in the same transaction.

        Raises UsageError for an unknown parameter or stage, a value of the wrong type, or code or data that is not there.
        """
        pipeline = pipeline.with_values(overrides)
        planner.forced_stages(pipeline, from_stage, force)
        now = time.time()
        context = {"pipeline": pipeline.name, "actor": actor, "created_at": now, **context}
        context.setdefault("workspace", str(self._shop.paths.root))
        await asyncio.to_thread(read_world, pipeline, pipeline.stages, context)
        plan = RunPlan(pipeline, from_stage, force, context)

        def begin(session: Session) -> str:
            run_id = records.begin(session, plan, actor=actor, reason=reason, now=now)
            also(session, run_id)
            return run_id

        run_id = await self._shop.store.write(begin)
        self._shop.on_change(f"run:{run_id}")
        self._drive(run_id)
        return run_id

    async def wait(self, run_id: str, timeout_s: float | None = None) -> RunState:
        """Wait until the run is over and say how. Raises TimedOut; the run goes on."""
        task = self._drives.get(run_id)
        if task is not None:
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
            if not done:
                raise TimedOut(f"run {run_id} still goes on after {timeout_s:g} s", hint=f"`airboss run show {run_id}`")
        state = await self._shop.store.read(lambda s: records.state_of(s, run_id))
        if not state.is_over:
            raise Conflict(f"run {run_id} is {state}, but this engine does not drive it", code="run_not_driven")
        return state

    async def cancel(self, run_id: str, actor: str, reason: str = "") -> None:
        """End the run: the word is written first, then its process groups are killed. Raises Conflict when it is over."""
        spawn_ids = await self._shop.store.write(lambda s: records.cancel(s, run_id, actor, reason, time.time()))
        self._shop.on_change(f"run:{run_id}")
        await self._stop_driving(run_id)
        await self._end_children(spawn_ids)
        self._shop.on_change(f"run:{run_id}")

    async def retry(self, run_id: str, actor: str) -> str:
        """Go on with a run that failed: finished stages stay, the others run again. Raises Conflict otherwise."""
        await self._shop.store.write(lambda s: records.retry(s, run_id, actor, time.time()))
        await self._stop_driving(run_id)
        self._shop.on_change(f"run:{run_id}")
        self._drive(run_id)
        return run_id

    async def resume_all(self) -> tuple[str, ...]:
        """After a start of the engine: go on with every run that is not over. Returns their ids.

        Children still alive are adopted; those of runs that were cancelled meanwhile are ended.
        """
        run_ids = await self._shop.store.read(records.open_runs)
        spawns = await self._shop.store.read(records.open_spawns)
        await self._end_children(tuple(spawn_id for spawn_id, run_id in spawns.items() if run_id not in run_ids))
        await asyncio.to_thread(self._shop.cache.sweep, frozenset(spawns))
        for run_id in run_ids:
            if run_id in self._drives:
                continue
            alive = [
                spawn_id for spawn_id, owner in spawns.items() if owner == run_id and self._shop.spawner.adopt(spawn_id)
            ]
            await self._shop.store.write(lambda s, r=run_id, a=alive: records.note_resumed(s, r, a))  # type: ignore[misc]
            self._drive(run_id)
        return run_ids

    async def close(self) -> None:
        """Stop watching. Stage children live on; the next runner's `resume_all` goes on with them."""
        for run_id in tuple(self._drives):
            await self._stop_driving(run_id)

    def _drive(self, run_id: str) -> None:
        task = asyncio.create_task(self._follow(run_id), name=f"run {run_id}")
        self._drives[run_id] = task
        task.add_done_callback(
            lambda done: self._drives.pop(run_id, None) if self._drives.get(run_id) is done else None
        )

    async def _follow(self, run_id: str) -> None:
        """Drive the run until it is over, from its record each time."""
        while True:
            try:
                run = await self._shop.store.read(lambda s: records.load(s, run_id))
                if not run.state.is_over:
                    await Drive(self._shop, run).to_end()
                return
            except records.RunIsOver:
                return
            except (OperationFailed, Conflict) as trouble:
                # Stages turn their own troubles into outcomes: what comes here is the store's, and it may mend.
                log.error("run %s: %s (%s); it is looked at again in %g s", run_id, trouble, trouble.hint, REDRIVE_S)
                await asyncio.sleep(REDRIVE_S)
            except Exception as bug:  # a bug here must end in the record, not in a run that never ends
                log.exception("run %s: the engine failed to drive it", run_id)
                await self._give_up(run_id, f"the engine failed to drive this run: {type(bug).__name__}: {bug}")
                return

    async def _give_up(self, run_id: str, error: str) -> None:
        with contextlib.suppress(records.RunIsOver):
            await self._shop.store.write(lambda s: records.finish(s, run_id, RunState.FAILED, error, time.time()))
        spawns = await self._shop.store.read(records.open_spawns)
        await self._end_children(tuple(spawn_id for spawn_id, owner in spawns.items() if owner == run_id))
        self._shop.on_change(f"run:{run_id}")

    async def _stop_driving(self, run_id: str) -> None:
        task = self._drives.pop(run_id, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _end_children(self, spawn_ids: tuple[str, ...]) -> None:
        """Kill the process groups of stage children and write down that they have ended."""
        await asyncio.gather(*(self._end_child(spawn_id) for spawn_id in spawn_ids))

    async def _end_child(self, spawn_id: str) -> None:
        shop = self._shop
        child = await shop.find(spawn_id)
        shop.children.pop(spawn_id, None)
        spec = child.spec if child else shop.spawner.spec_of(spawn_id)
        cause = (await end_group(child)).cause if child else shop.spawner.exit_of(spawn_id).cause
        if spec is not None:
            shop.end_elsewhere(spec)
        await shop.store.write(lambda s: stage_records.end_spawn(s, spawn_id, cause, time.time()))
        await asyncio.to_thread(shop.cache.drop_aside, spawn_id)
        shop.spawner.forget(spawn_id)

    def _settle(
        self, pipeline: Pipeline, world: planner.World, from_stage: str | None, force: bool
    ) -> tuple[planner.StagePlan, ...]:
        """Plan, look up the keys that the plan now knows, and plan again until there are no new ones."""
        outputs: dict[str, str] = {}
        broken: dict[str, str] = {}
        foretold: dict[str, str] = {}
        workspace = Path(str(world.context.get("workspace") or self._shop.paths.root))
        looked: set[str] = set()
        while True:
            world = replace(world, outputs=dict(outputs), broken=dict(broken), foretold=dict(foretold))
            decided = planner.plan(pipeline, world, from_stage=from_stage, force=force)
            fresh = [p for p in decided if p.key and p.action is planner.Action.RUN and p.key not in looked]
            if not fresh:
                return decided
            for key, stage in ((one.key, one.stage) for one in fresh):
                looked.add(key)
                try:
                    manifest = self._shop.cache.place(key).verified(key)
                except OutputsChanged as error:
                    broken[key] = str(error)
                    continue
                if manifest is not None:
                    outputs[key] = manifest.digest
                elif digest := command.foretold(pipeline.stage_params(stage), workspace):
                    foretold[key] = digest
