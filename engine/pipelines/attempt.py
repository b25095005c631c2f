"""One attempt at one stage: fingerprint, look into the cache, else start a child and watch it to its end."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapters.local.child import ChildSpec, process_start_ticks, write_json
from adapters.local.spawn import Child, ChildExit
from engine.pipelines import fingerprint, outcome, planner, records, stage_records
from engine.pipelines.cache import OUT, Manifest, OutputsChanged, Place
from engine.pipelines.outcome import Outcome
from engine.pipelines.records import RunRecord, StageRecord
from engine.pipelines.spec import Pipeline, StageSpec
from engine.pipelines.stage import PROGRESS_NAME
from engine.pipelines.stage_records import Attempt
from engine.pipelines.stages.command import put_in_place
from engine.pipelines.workshop import Workshop, end_group, sweep_group
from state.digests import text_sha256
from state.words import AirbossError, ChildKind, RunState

log = logging.getLogger(__name__)
PROGRESS_S = 1.0


@dataclass(frozen=True, slots=True)
class Done:
    """One stage at its end. `output`, `place` and `facts` are of use only when `state.is_good`."""

    stage: str
    state: RunState
    error: str = ""
    output: str = ""
    place: Place | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """What an attempt came to. `cause` is how its process ended; without a process `attempt.spawn_id` is empty."""

    attempt: Attempt
    outcome: Outcome
    place: Place | None = None
    cause: str = ""

    @property
    def done(self) -> Done:
        """The stage's end, if this attempt is its last."""
        end = self.outcome
        return Done(self.attempt.stage, end.state, end.error, end.output, self.place, end.facts)


@dataclass(frozen=True, slots=True)
class Task:
    """A stage about to be made: where the outputs go, what they are made of, and whether kept ones will do."""

    spec: StageSpec
    attempt: Attempt
    place: Place
    made_of: planner.Ingredients
    context: Mapping[str, Any]
    inputs: Mapping[str, str]
    reuse: bool


class Maker:
    """Makes the outputs of stages of one run."""

    def __init__(self, shop: Workshop, run: RunRecord, on_start: Callable[[StageSpec], None]) -> None:
        self._shop = shop
        self._run = run
        self._on_start = on_start
        self._forced = planner.forced_stages(run.plan.pipeline, run.plan.from_stage, run.plan.force)

    async def make(self, spec: StageSpec, inputs: Mapping[str, Done]) -> Tried:
        """One attempt from the beginning. Only the store's own troubles are raised."""
        try:
            world = await asyncio.to_thread(read_world, self._run.plan.pipeline, (spec,), self._run.plan.context)
        except (AirbossError, OSError) as trouble:
            return Tried(Attempt(self._run.id, spec.name), _infrastructure(trouble))
        task = await self._prepare(spec, inputs, world)
        async with self._shop.one_at_a_time(task.place):
            if task.reuse and (hit := await self._hit(task)):
                return Tried(replace(task.attempt, spawn_id="", why="nothing changed"), hit, task.place)
            async with self._shop.slots:
                try:
                    socket = await self._shop.registry_socket() if spec.uses_registry else None
                except (AirbossError, OSError) as trouble:
                    return Tried(replace(task.attempt, spawn_id=""), _infrastructure(trouble))
                number = await self.write(lambda s: stage_records.begin_attempt(s, task.attempt, time.time()))
                await asyncio.to_thread(self._keep_ingredients, task)
                try:
                    child = self._start(task, socket, number)
                except (AirbossError, OSError) as trouble:
                    return Tried(task.attempt, _infrastructure(trouble), None, str(trouble))
                await self._shop.store.write(lambda s: stage_records.note_pid(s, task.attempt.spawn_id, child.pid))
                return await self._watch(spec, task.attempt, task.place, child, time.time())

    async def adopt(self, spec: StageSpec, record: StageRecord) -> Tried:
        """Go on with the child an earlier engine started; when it is dead, see what it left."""
        shop, run_id = self._shop, self._run.id
        place = shop.place(run_id, spec, record.key)
        log_path = str(shop.log_path(run_id, spec.name))
        attempt = Attempt(run_id, spec.name, record.spawn_id, record.key, str(place.out), log_path)
        async with shop.one_at_a_time(place):
            child = await shop.find(record.spawn_id)
            if child is not None:
                shop.children[record.spawn_id] = child
                log.info("%s/%s: adopted pid %d", run_id, spec.name, child.pid)
                return await self._watch(spec, attempt, place, child, record.started_at or time.time())
            exit_ = shop.spawner.exit_of(record.spawn_id)
            return await self._judge(spec, attempt, place, exit_, timed_out=False)

    async def write(self, fn: Any) -> Any:
        """One transaction, and word of it to whoever watches the run."""
        value = await self._shop.store.write(fn)
        self._shop.on_change(f"run:{self._run.id}")
        return value

    async def _prepare(self, spec: StageSpec, inputs: Mapping[str, Done], world: planner.World) -> Task:
        run, pipeline = self._run, self._run.plan.pipeline
        made_of = planner.ingredients(pipeline, spec, world, {name: done.output for name, done in inputs.items()})
        key = made_of.key
        place = self._shop.place(run.id, spec, key)
        log_path = str(self._shop.log_path(run.id, spec.name))
        previous = await self._shop.previous(run.id, pipeline.name, spec.name)
        why = self._forced.get(spec.name) or planner.changes(previous, made_of)
        attempt = Attempt(run.id, spec.name, secrets.token_hex(6), key, str(place.out), log_path, why)
        context = run.plan.context
        if spec.cached:
            given = {name: context.get(name) for name in (*spec.reads, "workspace")}
        else:
            release_id = await self._shop.store.write(lambda s: records.reserve_release(s, run.id))
            given = {**context, "release_id": release_id, "build_key": text_sha256(f"{release_id} {key}")}
        return Task(
            spec=spec,
            attempt=attempt,
            place=place,
            made_of=made_of,
            context=given,
            inputs={name: str(done.place.out) for name, done in inputs.items() if done.place},
            reuse=not spec.cached or spec.name not in self._forced,
        )

    async def _hit(self, task: Task) -> Outcome | None:
        """The kept outputs of the task's key as an outcome, when they are there and unchanged."""
        try:
            manifest = await asyncio.to_thread(task.place.verified, task.attempt.key)
        except OutputsChanged as error:
            log.warning("%s/%s: kept outputs are unusable: %s", self._run.id, task.spec.name, error)
            return None
        if manifest is None:
            return None
        state = RunState.CACHED if task.spec.cached else RunState.SUCCEEDED
        await asyncio.to_thread(self._note_hit, task, manifest)
        result = task.place.result()
        if task.spec.in_place:
            workspace = Path(str(self._run.plan.context["workspace"]))
            facts = result.get("facts", {})
            await asyncio.to_thread(put_in_place, task.place.out, workspace, task.made_of.params, facts)
        return Outcome(state, result=result, output=manifest.digest)

    def _start(self, task: Task, socket: str | None, number: int) -> Child:
        """Start the child that makes the task's outputs."""
        shop, attempt, spec = self._shop, task.attempt, task.spec
        aside = shop.cache.aside(attempt.spawn_id)
        payload = {
            "run_id": self._run.id,
            "stage": spec.name,
            "entry": spec.entry,
            "params": dict(task.made_of.params),
            "inputs": dict(task.inputs),
            "out_dir": str(aside / OUT),
            "registry_socket": socket,
            "context": dict(task.context),
            "attempt": number,
            "why": attempt.why,
            "key": attempt.key,
            "place": str(task.place.entry),
            "aside": str(aside),
            "reuse": task.reuse,
            "made_of": task.made_of.to_json(),
            "required_gates": list(spec.required_gates),
            "code_marks": fingerprint.code_marks(spec.entry, self._run.plan.pipeline.code_paths),
            "code_paths": list(self._run.plan.pipeline.code_paths),
            "executor": dict(spec.executor),
            "timeout_s": spec.timeout_s,
        }
        child_spec = ChildSpec(attempt.spawn_id, ChildKind.STAGE, shop.paths.run, "", attempt.key, payload)
        child = shop.start(self._run.id, spec, child_spec)
        self._on_start(spec)
        log.info("%s/%s attempt %d: pid %d (%s)", self._run.id, spec.name, number, child.pid, attempt.why)
        return child

    def _note_hit(self, task: Task, manifest: Manifest) -> None:
        """The stage's log of this run says that there was nothing to do, and where it came from."""
        self._keep_ingredients(task)
        line = {"at": round(time.time(), 3), "message": "kept outputs are used", "key": manifest.key[:12]}
        with Path(task.attempt.log_path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**line, "made_by": manifest.spawn_id, "made_at": round(manifest.made_at, 3)}) + "\n")

    def _keep_ingredients(self, task: Task) -> None:
        path = self._shop.ingredients_path(self._run.id, task.spec.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, task.made_of.to_json())

    async def _watch(self, spec: StageSpec, attempt: Attempt, place: Place, child: Child, started_at: float) -> Tried:
        """Wait for the child's end, passing its progress on; at its time limit end its whole group."""
        ticks = process_start_ticks(child.pid)
        left_s = min(max(started_at + spec.timeout_s - time.time(), 0.0), spec.timeout_s)
        deadline = time.monotonic() + left_s
        waiting = asyncio.create_task(child.wait())
        seen: Mapping[str, Any] = {}
        timed_out = False
        try:
            while True:
                pause_s = min(PROGRESS_S, max(deadline - time.monotonic(), 0.0))
                done, _ = await asyncio.wait({waiting}, timeout=pause_s)
                if done:
                    exit_ = waiting.result()
                    break
                seen = await self._pass_on(attempt, seen)
                if time.monotonic() >= deadline:
                    timed_out = True
                    exit_ = await end_group(child)
                    self._shop.end_elsewhere(child.spec)
                    break
        finally:
            waiting.cancel()
        sweep_group(child.pid, ticks)
        self._shop.children.pop(attempt.spawn_id, None)
        return await self._judge(spec, attempt, place, exit_, timed_out=timed_out)

    async def _judge(
        self, spec: StageSpec, attempt: Attempt, place: Place, exit_: ChildExit, *, timed_out: bool
    ) -> Tried:
        aside = self._shop.cache.aside(attempt.spawn_id)
        left = await asyncio.to_thread(outcome.look, place, aside, attempt.key)
        end = outcome.judge(exit_, left, spawn_id=attempt.spawn_id, timed_out=timed_out, timeout_s=spec.timeout_s)
        return Tried(attempt, end, place, exit_.cause)

    async def _pass_on(self, attempt: Attempt, seen: Mapping[str, Any]) -> Mapping[str, Any]:
        """Record the stage's progress when it has changed."""
        path = self._shop.cache.aside(attempt.spawn_id) / OUT / PROGRESS_NAME
        try:
            facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return seen
        if facts != seen:
            await self.write(lambda s: stage_records.note_progress(s, attempt.run_id, attempt.stage, facts))
        return facts


def read_world(pipeline: Pipeline, stages: tuple[StageSpec, ...], context: Mapping[str, Any]) -> planner.World:
    """Fingerprint code, sources and versions for `stages`. Blocks; raises UsageError for code or data that is not there."""
    workspace = Path(str(context.get("workspace") or "."))
    sources = {}
    for spec in stages:
        params = pipeline.stage_params(spec.name)
        sources[spec.name] = {
            name: fingerprint.source_digest(str(params[name]), workspace) for name in spec.sources if params.get(name)
        }
    code = {spec.name: fingerprint.code_digest(spec.entry, pipeline.code_paths) for spec in stages}
    return planner.World(code=code, environment=fingerprint.environment(), sources=sources, context=context)


def _infrastructure(trouble: AirbossError | OSError) -> Outcome:
    """A trouble met before the stage could run: worth another try unless it says that it is not."""
    if isinstance(trouble, AirbossError):
        said = f"{trouble.message}; {trouble.hint}" if trouble.hint else trouble.message
        return Outcome(RunState.FAILED, said, trouble.retryable)
    return Outcome(RunState.FAILED, str(trouble), retryable=True)
