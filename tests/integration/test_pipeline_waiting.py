"""The next stage's process imports while the one before it runs; it is the one that does the stage, or does nothing at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from adapters.local.child import ChildSpec
from adapters.local.spawn import Spawner
from adapters.local.waiting import WAIT, Waiting
from engine.pipelines import stage_main
from engine.pipelines.fingerprint import code_digest
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.spec import Pipeline, StageSpec
from engine.pipelines.workshop import STAGE_MODULE
from state.models import Spawn
from state.paths import Paths
from state.store import Store
from state.words import RunState

COLLECT, SNAPSHOT = (f"engine.pipelines.stages.{name}:run" for name in ("collect", "snapshot"))
WHAT = json.dumps({"entry": COLLECT, "params": {}})
pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    made = Paths.of(tmp_path)
    made.make()
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 200)
    return made


def ends(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Watched(Spawner):
    """Remembers which processes it let wait."""

    def __init__(self, paths: Paths, then: Callable[[Waiting], None] = lambda waiting: None) -> None:
        super().__init__(paths.run, paths.logs)
        self.waited: list[int] = []
        self._then = then

    def start_waiting(self, module: str, *args: str, nice: int = 0) -> Waiting | None:
        waiting = super().start_waiting(module, *args, nice=nice)
        assert waiting is not None
        self.waited.append(waiting.pid)
        self._then(waiting)
        return waiting


async def played(paths: Paths, spawner: Watched) -> tuple[RunState, list[int]]:
    """A run of two stages; its end, and the processes of those that began, in order."""
    store = Store.open(paths.store)

    async def no_registry() -> str:
        raise AssertionError("no stage asks for it")

    runner = PipelineRunner(store, spawner, paths, registry_socket=no_registry, on_change=lambda ref: None)
    text = {"text": str(paths.root / "text.txt")}
    stages = (StageSpec("collect", COLLECT, (), text, sources=("text",)), StageSpec("snapshot", SNAPSHOT, ("collect",)))
    context = {"workspace": str(paths.root)}
    try:
        run_id = await runner.start(
            Pipeline("p", stages), overrides={}, actor="user:ann", reason="a test", context=context
        )
        state = await runner.wait(run_id, 60)
        pids = store.read_now(lambda s: [row.pid for row in s.exec(select(Spawn).order_by(col(Spawn.started_at)))])
        return state, pids
    finally:
        await runner.close()
        store.close()


async def test_the_process_that_waited_does_the_stage(paths: Paths) -> None:
    spawner = Watched(paths)
    state, pids = await played(paths, spawner)
    assert state is RunState.SUCCEEDED
    assert spawner.waited == pids[1:]


async def test_one_that_is_gone_is_as_good_as_none(paths: Paths) -> None:
    def kill(waiting: Waiting) -> None:
        waiting.popen.kill()
        waiting.popen.wait()

    spawner = Watched(paths, kill)
    state, pids = await played(paths, spawner)
    assert state is RunState.SUCCEEDED
    assert len(pids) == 2 and pids[1] not in spawner.waited


async def test_a_run_that_fails_leaves_nobody_waiting(paths: Paths) -> None:
    (paths.root / "text.txt").write_bytes(b"\0" * 5000)
    spawner = Watched(paths)
    state, _ = await played(paths, spawner)
    assert not state.is_good
    (pid,) = spawner.waited
    assert ends(pid)


def test_it_leaves_when_its_engine_is_killed(paths: Paths) -> None:
    program = (
        "import sys, time; from pathlib import Path; from adapters.local.spawn import Spawner\n"
        f"w = Spawner(Path({str(paths.run)!r}), Path({str(paths.logs)!r})).start_waiting({STAGE_MODULE!r}, {WAIT!r}, {WHAT!r})\n"
        "print(w.pid, flush=True); time.sleep(600)"
    )
    engine = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert engine.stdout is not None
    pid = int(engine.stdout.readline())
    engine.kill()
    engine.wait()
    engine.stdout.close()
    assert ends(pid)


@pytest.mark.parametrize("is_edited", [False, True])
def test_code_that_was_edited_while_it_waited_is_read_anew(
    paths: Paths, monkeypatch: pytest.MonkeyPatch, is_edited: bool
) -> None:
    made_of: dict[str, Any] = {"code": "another" if is_edited else code_digest(COLLECT)}
    spec_path = paths.run / "x.spec.json"
    ChildSpec("x", "stage", paths.run, "", "", {"made_of": made_of}).write(spec_path)
    monkeypatch.setattr(stage_main, "told", lambda: spec_path)
    became: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: became.append(argv))
    assert stage_main.wait(json.loads(WHAT)) == spec_path
    assert became == ([[sys.executable, "-P", "-m", STAGE_MODULE, str(spec_path)]] if is_edited else [])
