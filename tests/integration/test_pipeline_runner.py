"""The pipeline runner over a real store, a real cache and real processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest
from patience import eventually
from sqlmodel import Session, col, select

from adapters.local.spawn import Spawner
from engine.pipelines import records
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.spec import Param, Pipeline, StageSpec
from state.models import Artifact, Audit, Dataset, LineageEdge, Prompt, Release, Run, Spawn, StageRun
from state.paths import Paths
from state.store import Store
from state.words import Conflict, OperationFailed, RunState, TimedOut, UsageError

T = TypeVar("T")
HERE = Path(__file__).parent
pytestmark = pytest.mark.timeout(90)


@dataclass
class Bench:
    """A workspace with a runner in it."""

    paths: Paths
    store: Store
    runner: PipelineRunner
    changes: list[str]

    def again(self) -> PipelineRunner:
        """Another runner over the same workspace, as a restarted engine has."""

        async def socket() -> str:
            raise OperationFailed("there is no registry in this test")

        self.runner = PipelineRunner(
            self.store,
            Spawner(self.paths.run, self.paths.logs),
            self.paths,
            registry_socket=socket,
            on_change=self.changes.append,
        )
        return self.runner

    async def start(self, pipeline: Pipeline, **more: Any) -> str:
        settings: dict[str, Any] = {"overrides": {}, "actor": "user:ann", "reason": "a test", "context": {}} | more
        return await self.runner.start(pipeline, **settings)

    async def run(self, pipeline: Pipeline, **more: Any) -> tuple[str, RunState]:
        run_id = await self.start(pipeline, **more)
        return run_id, await self.runner.wait(run_id, 60)

    def tally(self, stage: str) -> int:
        """How often the stage was really run."""
        path = self.paths.root / f"{stage}.tally"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def rows(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The run's stages as the store has them."""

        def read(session: Session) -> dict[str, dict[str, Any]]:
            found = session.exec(select(StageRun).where(StageRun.run_id == run_id))
            return {row.name: row.model_dump() for row in found}

        return self.store.read_now(read)

    def one(self, fn: Callable[[Session], Any]) -> Any:
        return self.store.read_now(fn)

    def actions(self, run_id: str) -> list[tuple[str, str]]:
        """(actor, action) of the run's audit rows, in order."""
        query = select(Audit.actor, Audit.action).where(Audit.ref == f"run:{run_id}").order_by(col(Audit.id))
        return self.store.read_now(lambda s: [(actor, action) for actor, action in s.exec(query)])

    def row(self, kind: type[T], key: str) -> T:
        """The row with this id, as it was read."""

        def read(session: Session) -> T:
            found = session.get(kind, key)
            assert found is not None
            session.expunge(found)
            return found

        return self.store.read_now(read)


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    sockets = tempfile.mkdtemp(prefix="ab-")  # pytest's own directories are too long for a socket's path
    monkeypatch.setenv("XDG_RUNTIME_DIR", sockets)
    paths = Paths.of(tmp_path)
    paths.make()
    (tmp_path / "code").mkdir()
    shutil.copy(HERE / "toys" / "toy_stages.py", tmp_path / "code" / "toy_stages.py")
    store = Store.open(paths.store)
    made = Bench(paths, store, None, [])  # type: ignore[arg-type]
    made.again()
    yield made
    await made.runner.close()
    for child in made.runner._shop.spawner.living().values():
        child.kill()
        await child.wait()
    store.close()


def toy(bench: Bench, *stages: StageSpec, params: tuple[Param, ...] = ()) -> Pipeline:
    return Pipeline("toy", stages, params, code_paths=(str(bench.paths.root / "code"),))


def stage(name: str, *needs: str, do: str = "", **more: Any) -> StageSpec:
    given: dict[str, Any] = {"timeout_s": 30, "backoff_s": 0.05} | more
    return StageSpec(name, f"toy_stages:{do or name}", needs, **given)


def two(bench: Bench, number: int = 1, **second: Any) -> Pipeline:
    return toy(bench, stage("make", params={"number": number}), stage("double", "make", **second))


def alive(pid: int) -> bool:
    """Running, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def started(bench: Bench, name: str) -> int:
    """The pid of the toy stage, once it stands and waits for the test."""
    path = bench.paths.root / f"{name}.started"
    return int(await eventually(lambda: path.exists() and path.read_text(), f"{name} has started"))


async def test_second_run_repeats_nothing(bench: Bench) -> None:
    first, state = await bench.run(two(bench))
    assert state is RunState.SUCCEEDED
    second, state = await bench.run(two(bench))
    assert state is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.tally("double")) == (1, 1)
    rows = bench.rows(second)
    assert [rows[name]["state"] for name in ("make", "double")] == ["cached", "cached"]
    assert rows["double"]["metrics"] == {"double": 2.0}
    assert rows["double"]["progress"] == {"why": "nothing changed"}
    assert bench.rows(first)["double"]["progress"] == {"why": "first run"}
    assert "kept outputs are used" in Path(rows["double"]["log_path"]).read_text()
    assert (Path(rows["double"]["out_dir"]) / "double.txt").read_text() == "2"
    assert "outputs kept" in Path(bench.rows(first)["make"]["log_path"]).read_text()
    assert f"run:{second}" in bench.changes


async def test_changed_parameter_runs_the_stage_and_what_follows(bench: Bench) -> None:
    await bench.run(two(bench, 1))
    run_id, _ = await bench.run(two(bench, 4))
    assert (Path(bench.rows(run_id)["double"]["out_dir"]) / "double.txt").read_text() == "8"
    assert '"why": "number 1 → 4"' in Path(bench.rows(run_id)["make"]["log_path"]).read_text(encoding="utf-8")


async def test_same_outputs_of_changed_code_stop_the_change_there(bench: Bench) -> None:
    def pipeline(number: int) -> Pipeline:
        return toy(
            bench, stage("make", params={"number": number}), stage("same", "make"), stage("last", "same", do="same")
        )

    await bench.run(pipeline(1))
    run_id, _ = await bench.run(pipeline(2))
    rows = bench.rows(run_id)
    assert {name: row["state"] for name, row in rows.items()} == {
        "make": "succeeded",
        "same": "succeeded",
        "last": "cached",
    }


async def test_modified_output_is_found_and_made_again(bench: Bench) -> None:
    first, _ = await bench.run(two(bench))
    path = Path(bench.rows(first)["make"]["out_dir"]) / "number.txt"
    path.write_text("999")
    plan = await bench.runner.plan(two(bench))
    assert plan[0].why == "kept outputs are unusable: number.txt is missing or was modified"
    second, state = await bench.run(two(bench))
    assert state is RunState.SUCCEEDED
    assert path.read_text() == "1"
    assert (bench.tally("make"), bench.tally("double")) == (2, 1)
    assert bench.rows(second)["double"]["state"] == "cached"


async def test_killed_stage_leaves_nothing_and_runs_again(bench: Bench) -> None:
    pipeline = toy(bench, stage("make", params={"wait_for": "go"}, retries=1))
    run_id = await bench.start(pipeline)
    os.kill(await started(bench, "make"), signal.SIGKILL)
    await eventually(lambda: bench.tally("make") == 2, "the second attempt")
    assert [path.name for path in bench.paths.cache.iterdir() if path.suffix != ".lock"] == [".aside"]
    (bench.paths.root / "go").touch()
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert bench.rows(run_id)["make"]["attempt"] == 2
    assert ("system:engine", "stage.retry") in bench.actions(run_id)
    causes = bench.one(lambda s: [row.end_cause for row in s.exec(select(Spawn).order_by(col(Spawn.started_at)))])
    assert causes == ["killed by SIGKILL", "exited"]
    assert not any((bench.paths.cache / ".aside").iterdir())


async def test_infrastructure_errors_are_retried_and_bugs_are_not(bench: Bench) -> None:
    run_id, state = await bench.run(toy(bench, stage("make", do="unreachable_at_first", retries=2)))
    assert (state, bench.rows(run_id)["make"]["attempt"]) == (RunState.SUCCEEDED, 3)
    run_id, state = await bench.run(toy(bench, stage("broken", retries=5)))
    assert (state, bench.tally("broken")) == (RunState.FAILED, 1)
    assert bench.rows(run_id)["broken"]["error"] == "ValueError: this stage has a bug"


async def test_timeout_kills_the_whole_process_group(bench: Bench) -> None:
    pipeline = toy(bench, stage("stuck", do="with_children", timeout_s=1.5, retries=3))
    run_id, state = await bench.run(pipeline)
    assert state is RunState.TIMED_OUT
    leader, grandchild = map(int, (bench.paths.root / "pids").read_text().split())
    await eventually(lambda: not alive(leader) and not alive(grandchild), "both processes are gone")
    assert "whole process group was killed" in bench.rows(run_id)["stuck"]["error"]
    assert bench.rows(run_id)["stuck"]["attempt"] == 1


@pytest.mark.parametrize("value", ["nan", None, 2.5])
async def test_blocking_gate_refuses_and_nothing_is_cached(bench: Bench, value: Any) -> None:
    pipeline = toy(bench, stage("gated", params={"value": value}), stage("after", "gated", do="same"))
    if value is None:
        pipeline = toy(bench, stage("gated", do="same", required_gates=("loss",)), stage("after", "gated", do="same"))
    run_id, state = await bench.run(pipeline)
    assert state is RunState.GATE_FAILED
    rows = bench.rows(run_id)
    assert rows["after"]["state"] == "skipped"
    assert [gate["passed"] for gate in rows["gated"]["gates"]] == [False]
    assert "loss = " in rows["gated"]["error"]
    await bench.run(pipeline)
    assert bench.tally("gated") == 2


async def test_warning_gate_is_recorded_and_passed(bench: Bench) -> None:
    run_id, state = await bench.run(toy(bench, stage("gated", params={"value": "nan", "blocking": False})))
    assert state is RunState.SUCCEEDED
    row = bench.rows(run_id)["gated"]
    assert row["gates"][0] | {"name": "loss"} == row["gates"][0]
    assert (row["gates"][0]["passed"], row["gates"][0]["value"], row["metrics"]) == (False, None, {"loss": None})


async def test_cancel_kills_the_stage_and_says_who(bench: Bench) -> None:
    run_id = await bench.start(toy(bench, stage("stuck", do="with_children"), stage("after", "stuck", do="same")))
    pids = (await eventually(lambda: _text(bench.paths.root / "pids"), "the stage's pids")).split()
    await bench.runner.cancel(run_id, "user:bob")
    assert await bench.runner.wait(run_id) is RunState.CANCELLED
    await eventually(lambda: not any(alive(int(pid)) for pid in pids), "both processes are gone")
    assert {row["state"] for row in bench.rows(run_id).values()} == {"cancelled"}
    assert ("user:bob", "run.cancel") in bench.actions(run_id)
    with pytest.raises(Conflict):
        await bench.runner.cancel(run_id, "user:bob")


async def test_retry_goes_on_where_the_run_stopped(bench: Bench) -> None:
    run_id = await bench.start(two(bench, params={"wait_for": "go"}))
    await started(bench, "double")
    await bench.runner.cancel(run_id, "user:bob")
    (bench.paths.root / "go").touch()
    await bench.runner.retry(run_id, "user:ann")
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.tally("double")) == (1, 2)
    with pytest.raises(Conflict):
        await bench.runner.retry(run_id, "user:ann")


async def test_new_runner_adopts_the_running_stage(bench: Bench) -> None:
    run_id = await bench.start(two(bench, params={"wait_for": "go"}))
    pid = await started(bench, "double")
    await bench.runner.close()
    assert alive(pid)
    assert await bench.again().resume_all() == (run_id,)
    await eventually(
        lambda: bench.rows(run_id)["double"]["progress"].get("step") == 1, "progress through the new runner"
    )
    (bench.paths.root / "go").touch()
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.tally("double")) == (1, 1)
    assert bench.rows(run_id)["double"]["attempt"] == 1
    assert ("system:engine", "run.resume") in bench.actions(run_id)


@pytest.mark.parametrize("end", ["finishes", "is killed"])
async def test_stage_that_ends_while_no_engine_runs(bench: Bench, end: str) -> None:
    run_id = await bench.start(two(bench, params={"wait_for": "go"}, retries=0))
    pid = await started(bench, "double")
    await bench.runner.close()
    if end == "is killed":
        os.kill(pid, signal.SIGKILL)
    (bench.paths.root / "go").touch()
    await eventually(lambda: not alive(pid), "the stage has ended")
    await bench.again().resume_all()
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.tally("double")) == (1, 1 if end == "finishes" else 2)


async def test_killed_engine_process_loses_nothing(bench: Bench) -> None:
    """Another process runs the pipeline, is killed with SIGKILL, and this one goes on with its run and its child."""
    script = bench.paths.root / "engine_like.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio, sys
            from pathlib import Path
            from adapters.local.spawn import Spawner
            from engine.pipelines.runner import PipelineRunner
            from engine.pipelines.spec import Pipeline, StageSpec
            from state.paths import Paths
            from state.store import Store

            async def main():
                paths = Paths.of(Path({str(bench.paths.root)!r}))
                store = Store.open(paths.store)
                runner = PipelineRunner(store, Spawner(paths.run, paths.logs), paths,
                                        registry_socket=None, on_change=lambda ref: None)
                stages = (StageSpec("make", "toy_stages:make"),
                          StageSpec("double", "toy_stages:double", ("make",), {{"wait_for": "go"}}))
                pipeline = Pipeline("toy", stages, code_paths=({str(bench.paths.root / "code")!r},))
                print(await runner.start(pipeline, overrides={{}}, actor="user:ann", reason="", context={{}}), flush=True)
                await asyncio.sleep(600)

            asyncio.run(main())
            """
        )
    )
    bench.store.close()
    engine = await asyncio.create_subprocess_exec(
        sys.executable, str(script), stdout=asyncio.subprocess.PIPE, cwd=bench.paths.root
    )
    assert engine.stdout is not None
    run_id = (await engine.stdout.readline()).decode().strip()
    pid = await started(bench, "double")
    engine.kill()
    await engine.wait()
    assert alive(pid)
    bench.store = Store.open(bench.paths.store)
    await bench.again().resume_all()
    (bench.paths.root / "go").touch()
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.tally("double")) == (1, 1)
    assert bench.rows(run_id)["double"]["attempt"] == 1


class DyingStore:
    """A store whose engine dies at the n-th write, just before it or just after: the write is never answered."""

    def __init__(self, store: Store, dies_at: int, after: bool) -> None:
        self._store, self._left, self._after = store, dies_at, after
        self.is_dead = asyncio.Event()

    async def write(self, fn: Callable[[Session], Any], *, urgent: bool = False) -> Any:
        self._left -= 1
        if self._left > 0:
            return await self._store.write(fn, urgent=urgent)
        if self._left == 0 and self._after:
            await self._store.write(fn, urgent=urgent)
        self.is_dead.set()
        await asyncio.Event().wait()

    async def read(self, fn: Callable[[Session], Any]) -> Any:
        return await self._store.read(fn)


@pytest.mark.deep
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_engine_dying_at_any_write_changes_nothing_in_the_end(bench: Bench, after: bool) -> None:
    finished = False
    for dies_at in range(2, 40):
        steady = bench.store
        dying = DyingStore(steady, dies_at, after)
        bench.store = dying  # type: ignore[assignment]
        bench.again()
        run_id = await bench.start(releasing(bench, number=dies_at))
        watch = asyncio.create_task(bench.runner.wait(run_id, 30))
        died = asyncio.create_task(dying.is_dead.wait())
        await asyncio.wait({watch, died}, return_when=asyncio.FIRST_COMPLETED)
        finished = not dying.is_dead.is_set()
        watch.cancel()
        died.cancel()
        await bench.runner.close()
        bench.store = steady
        await bench.again().resume_all()
        assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED, f"after dying at write {dies_at}"
        done = dies_at - 1
        assert [bench.tally(name) for name in ("make", "register", "release")] == [done] * 3, f"after write {dies_at}"
        assert bench.row(Run, run_id).release_id == f"toy-{done}"
        assert steady.read_now(lambda s: len(s.exec(select(Release)).all())) == done
        assert steady.read_now(records.open_spawns) == {}
        await bench.runner.close()
        if finished:
            break
    assert finished, "the run has more writes than the sweep has steps"


async def test_cancel_written_by_a_dying_engine_is_carried_out(bench: Bench) -> None:
    run_id = await bench.start(toy(bench, stage("make", params={"wait_for": "never"})))
    pid = await started(bench, "make")
    await bench.runner.close()
    await bench.store.write(lambda s: records.cancel(s, run_id, "user:bob", "", time.time()))
    assert await bench.again().resume_all() == ()
    assert not alive(pid)
    assert await bench.runner.wait(run_id) is RunState.CANCELLED


async def test_two_runs_of_the_same_key_make_it_once(bench: Bench) -> None:
    pipeline = toy(bench, stage("make", params={"wait_for": "go"}))
    first, second = await bench.start(pipeline), await bench.start(pipeline)
    await started(bench, "make")
    (bench.paths.root / "go").touch()
    states = [await bench.runner.wait(run_id, 30) for run_id in (first, second)]
    assert states == [RunState.SUCCEEDED, RunState.SUCCEEDED]
    assert bench.tally("make") == 1
    assert sorted(bench.rows(run_id)["make"]["state"] for run_id in (first, second)) == ["cached", "succeeded"]


async def test_lock_of_another_process_is_waited_for(bench: Bench) -> None:
    pipeline = toy(bench, stage("make"))
    await bench.run(pipeline)
    key = bench.rows("run-1")["make"]["cache_key"]
    place = bench.runner._shop.cache.place(key)
    hidden = place.entry.with_name("hidden")
    with place.making():
        place.entry.rename(hidden)
        run_id = await bench.start(pipeline)
        await eventually(lambda: bench.rows(run_id)["make"]["state"] == "running", "the second child")
        with pytest.raises(TimedOut):
            await bench.runner.wait(run_id, 1)
        hidden.rename(place.entry)
    assert await bench.runner.wait(run_id, 30) is RunState.SUCCEEDED
    assert (bench.tally("make"), bench.rows(run_id)["make"]["state"]) == (1, "cached")


async def test_force_and_from_stage(bench: Bench) -> None:
    await bench.run(two(bench))
    await bench.run(two(bench), from_stage="double")
    assert (bench.tally("make"), bench.tally("double")) == (1, 2)
    await bench.run(two(bench), force=True)
    assert (bench.tally("make"), bench.tally("double")) == (2, 3)
    with pytest.raises(UsageError, match="has no stage 'treble'"):
        await bench.start(two(bench), from_stage="treble")


async def test_code_that_changes_under_a_stage_does_not_poison_the_cache(bench: Bench) -> None:
    run_id, state = await bench.run(toy(bench, stage("make", do="edit_own_source", retries=1)))
    assert (state, bench.rows(run_id)["make"]["attempt"]) == (RunState.SUCCEEDED, 2)
    run_id, _ = await bench.run(toy(bench, stage("make", do="edit_own_source")))
    assert bench.rows(run_id)["make"]["state"] == "cached"


async def test_outside_data_is_part_of_the_key(bench: Bench) -> None:
    source = bench.paths.root / "text.txt"
    source.write_text("one")
    pipeline = toy(bench, stage("make", params={"text": "text.txt"}, sources=("text",)))
    await bench.run(pipeline)
    source.write_text("two")
    plan = await bench.runner.plan(pipeline, context={"workspace": str(bench.paths.root)})
    assert (plan[0].action, plan[0].why) == ("run", "source text changed")
    await bench.run(pipeline)
    assert bench.tally("make") == 2
    source.unlink()
    with pytest.raises(UsageError, match="does not exist"):
        await bench.start(pipeline)


async def test_plan_names_what_changed_and_writes_nothing(bench: Bench) -> None:
    params = (Param("make.number", 1, "int"),)
    pipeline = toy(bench, stage("make"), stage("double", "make"), params=params)
    assert [(p.action, p.why) for p in await bench.runner.plan(pipeline)] == [
        ("run", "first run"),
        ("follow", "follows make"),
    ]
    await bench.run(pipeline)
    assert [p.action for p in await bench.runner.plan(pipeline)] == ["reuse", "reuse"]
    changed = await bench.runner.plan(pipeline, overrides={"make.number": "3"})
    assert [(p.action, p.why) for p in changed] == [("run", "number 1 → 3"), ("follow", "follows make")]
    assert bench.one(lambda s: len(s.exec(select(Run)).all())) == 1
    with pytest.raises(UsageError) as refused:
        await bench.runner.plan(pipeline, overrides={"make.numbre": 3})
    assert "make.number" in refused.value.hint


def releasing(bench: Bench, **params: Any) -> Pipeline:
    return toy(
        bench,
        stage("make", params={"number": params.get("number", 1)}),
        stage("register", "make", cached=False),
        stage("release", "register", cached=False, makes_release=True, params=params),
    )


async def test_finished_run_becomes_a_release_with_its_lineage(bench: Bench) -> None:
    context = {"service": "chat", "git_commit": "abc123", "baseline": {"release_id": "toy-0"}}
    run_id, state = await bench.run(releasing(bench), context=context)
    assert state is RunState.SUCCEEDED
    row = bench.row(Release, "toy-1").model_dump()
    assert (
        row
        | {
            "service": "chat",
            "model_name": "toy",
            "model_version": "7",
            "run_id": run_id,
            "dataset_id": "d" * 12,
            "prompt_id": "toy/1",
            "parent_id": "toy-0",
            "git_commit": "abc123",
            "seed": 5,
            "lifecycle": "Development",
        }
        == row
    )
    assert sorted(path.name for path in Path(row["bundle_path"]).iterdir()) == ["release.json", "weights.bin"]
    edges = bench.one(lambda s: {(e.src, e.dst) for e in s.exec(select(LineageEdge))})
    assert edges == {
        ("release:toy-1", f"run:{run_id}"),
        (f"run:{run_id}", f"dataset:{'d' * 12}"),
        (f"run:{run_id}", "commit:abc123"),
        ("release:toy-1", "prompt:toy/1"),
        ("release:toy-1", "release:toy-0"),
        ("release:toy-1", "model:toy/7"),
        ("release:toy-1", "release:toy-x"),
    }
    assert bench.row(Run, run_id).release_id == "toy-1"
    assert bench.one(lambda s: (len(s.exec(select(Dataset)).all()), len(s.exec(select(Prompt)).all()))) == (1, 1)
    assert bench.one(lambda s: sorted(a.path for a in s.exec(select(Artifact)))) == ["release.json", "weights.bin"]
    assert "release:toy-1" in bench.changes
    _, _ = await bench.run(releasing(bench, size=4), context=context)
    assert bench.row(Release, "toy-2").prompt_id == "toy/1"


async def test_release_whose_bytes_are_not_what_was_said_is_refused_and_keeps_its_name(bench: Bench) -> None:
    run_id, state = await bench.run(releasing(bench, lie=True))
    assert state is RunState.FAILED
    assert "the release stage said 000000000000" in bench.row(Run, run_id).error
    assert list(bench.paths.releases.iterdir()) == []
    await bench.runner.retry(run_id, "user:ann")
    await bench.runner.wait(run_id, 30)
    assert {line.split()[1] for line in (bench.paths.root / "build-keys").read_text().splitlines()} == {"toy-1"}
    assert (bench.tally("register"), bench.one(lambda s: s.exec(select(Release)).all())) == (1, [])


async def test_stages_with_effects_run_in_each_run_but_once_in_each(bench: Bench) -> None:
    pipeline = releasing(bench)
    slow = replace(pipeline, stages=(*pipeline.stages[:2], replace(pipeline.stages[2], params={"size": 1})))
    await bench.run(slow)
    await bench.run(slow)
    assert (bench.tally("make"), bench.tally("register")) == (1, 2)
    keys = [line.split()[0] for line in (bench.paths.root / "build-keys").read_text().splitlines()]
    assert len(set(keys)) == 2


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
