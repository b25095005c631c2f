"""What every running stage needs of the world: store, children, cache, limits. And the two effects on a process group."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapters.local.child import ChildSpec, process_start_ticks
from adapters.local.spawn import Child, ChildExit, Spawner
from adapters.local.waiting import WAIT, Waiting
from engine.pipelines.cache import Place, StageCache
from engine.pipelines.executors import end_elsewhere
from engine.pipelines.planner import Ingredients
from engine.pipelines.records import last_run_of
from engine.pipelines.spec import StageSpec
from state.paths import Paths
from state.store import Store
from state.words import AirbossError

log = logging.getLogger(__name__)
STAGE_MODULE = "engine.pipelines.stage_main"
OWN = "engine.pipelines.stages"
NICE = 10
"""Stages give way to serving."""
GRACE_S = 3.0
"""What a stage gets between SIGTERM and SIGKILL."""

END_AGAIN_S = 15.0
"""Between tries to delete the Jobs of a stage that was ended."""

SETTLE_S = 3.0
"""How long a child may take from its start to its lock before it counts as dead."""


@dataclass(slots=True)
class Workshop:
    """Shared by all runs of an engine. `children` holds the living stage children by spawn id."""

    store: Store
    spawner: Spawner
    paths: Paths
    registry_socket: Callable[[], Awaitable[str]]
    on_change: Callable[[str], None]
    max_stages: int
    cache: StageCache = field(init=False)
    slots: asyncio.Semaphore = field(init=False)
    children: dict[str, Child] = field(default_factory=dict)
    _waiting: dict[tuple[str, str], Waiting] = field(default_factory=dict)
    _ending: set[asyncio.Task[None]] = field(default_factory=set)
    _locks: dict[Path, asyncio.Lock] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cache = StageCache(self.paths.cache)
        self.slots = asyncio.Semaphore(self.max_stages)

    def place(self, run_id: str, stage: StageSpec, key: str) -> Place:
        """Where the stage's outputs are kept: by key, or, for a stage with effects, with its run."""
        return self.cache.place(key) if stage.cached else Place(self.paths.runs / run_id / "out" / stage.name)

    def one_at_a_time(self, place: Place) -> asyncio.Lock:
        """Held by the one stage of this engine that makes the outputs of `place`; the flock stands behind it."""
        return self._locks.setdefault(place.entry, asyncio.Lock())

    def warm(self, run_id: str, stage: StageSpec) -> None:
        """Let a process import what `stage` will need while the stage before it runs.

        Stages of our own only: what a user's module does when it is imported is to happen once, in its turn.
        """
        if (run_id, stage.name) not in self._waiting and stage.entry.startswith(f"{OWN}."):
            what = json.dumps({"entry": stage.entry, "params": dict(stage.params)})
            if (waiting := self.spawner.start_waiting(STAGE_MODULE, WAIT, what, nice=NICE)) is not None:
                self._waiting[run_id, stage.name] = waiting

    def start(self, run_id: str, stage: StageSpec, spec: ChildSpec) -> Child:
        """Start the child of an attempt at `stage`. Raises OperationFailed when it cannot start."""
        waiting = self._waiting.pop((run_id, stage.name), None)
        log_path = self.log_path(run_id, stage.name)
        child = self.spawner.spawn(spec, STAGE_MODULE, log_path=log_path, nice=NICE, waiting=waiting)
        self.children[spec.spawn_id] = child
        return child

    def dismiss(self, run_id: str) -> None:
        """No stage of the run begins any more."""
        for key in [key for key in self._waiting if key[0] == run_id]:
            self._waiting.pop(key).dismiss()

    def log_path(self, run_id: str, stage: str) -> Path:
        """All attempts of a stage log here."""
        return self.paths.runs / run_id / f"{stage}.log"

    def ingredients_path(self, run_id: str, stage: str) -> Path:
        """What the stage was made of, to say next time what changed."""
        return self.paths.runs / run_id / f"{stage}.key.json"

    async def find(self, spawn_id: str) -> Child | None:
        """The living child, ours or an earlier engine's. One started just now may not have its lock yet: it gets a moment."""
        if known := self.children.get(spawn_id):
            return known
        run_dir = self.spawner.run_dir
        was_started = (run_dir / f"{spawn_id}.spec.json").exists()
        until = time.monotonic() + (SETTLE_S if was_started else 0.0)
        while True:
            child = self.spawner.adopt(spawn_id)
            if child is not None or (run_dir / f"{spawn_id}.json").exists() or time.monotonic() >= until:
                return child
            await asyncio.sleep(0.05)

    def end_elsewhere(self, spec: ChildSpec) -> None:
        """Have deleted, in the background and for as long as it takes, what a stage that was ended has left going in a cluster.

        Its own process does so as it is told to end; this is for one that was killed, or that the cluster did not answer.
        """
        if spec.payload.get("executor"):
            task = asyncio.create_task(_end_until_done(spec), name=f"end the Jobs of {spec.spawn_id}")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def previous(self, this_run: str | None, pipeline: str, stage: str) -> Ingredients | None:
        """What the stage was made of in the newest run but this one."""
        run_id = await self.store.read(lambda session: last_run_of(session, pipeline, stage, this_run))
        return read_ingredients(self.ingredients_path(run_id, stage)) if run_id else None


async def _end_until_done(spec: ChildSpec) -> None:
    until = time.monotonic() + float(spec.payload.get("timeout_s", 0.0))  # its deadline ends the Job after that
    while True:
        try:
            await end_elsewhere(spec.payload)
            return
        except AirbossError as error:
            log.warning("the Jobs of stage %s are not deleted yet: %s", spec.payload["stage"], error)
        if time.monotonic() > until:
            return
        await asyncio.sleep(END_AGAIN_S)


def read_ingredients(path: Path) -> Ingredients | None:
    """The ingredients kept at `path`; None when there are none that this version understands."""
    try:
        return Ingredients.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


async def end_group(child: Child, grace_s: float = GRACE_S) -> ChildExit:
    """End the child and every process of its group: SIGTERM, and SIGKILL after `grace_s` or once the leader is dead."""
    ticks = process_start_ticks(child.pid)
    _signal_group(child.pid, ticks, signal.SIGTERM)
    try:
        exit_ = await asyncio.wait_for(child.wait(), grace_s)
    except TimeoutError:
        _signal_group(child.pid, ticks, signal.SIGKILL)
        exit_ = await child.wait()
    _signal_group(child.pid, ticks, signal.SIGKILL)
    return exit_


def sweep_group(pid: int, start_ticks: int) -> None:
    """Kill what a dead child left behind in its process group."""
    _signal_group(pid, start_ticks, signal.SIGKILL)


def _signal_group(pid: int, start_ticks: int, signum: signal.Signals) -> None:
    if pid <= 1:
        return
    now = process_start_ticks(pid)
    if now not in (0, start_ticks):
        return  # The number belongs to a newer process: the group we knew is gone.
    try:
        os.killpg(pid, signum)
    except (ProcessLookupError, PermissionError):
        return
