"""`dvc.lock` between two programs: what Airboss has run DVC finds up to date, and what DVC has run Airboss does not run again."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from engine.pipelines import dvc_lock, yaml12
from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.runner import PipelineRunner
from state.config import parse_config
from state.models import Run, StageRun
from state.store import Store
from state.words import RunState
from tests.dvc_program import ABSENT, dvc, may_be_skipped

with_dvc = pytest.mark.skipif(may_be_skipped(), reason=ABSENT)

PROJECT = """
stages:
  split:
    cmd: echo split >> tally; mkdir -p parts/deep; cp raw/a.csv parts/a; cp raw/b.csv parts/deep/b
    deps: [raw]
    outs: [parts]
  fit:
    foreach: [1, 0.5]
    do:
      wdir: models
      cmd:
        - echo fit >> ../tally
        - cat ../parts/a > m-${item}.txt
        - 'echo "loss: ${item}e-3" > m-${item}.yaml'
      deps: [../parts]
      params:
        - ../params.yaml: [lr, deep.on]
      outs:
        - m-${item}.txt
      metrics:
        - m-${item}.yaml: {cache: false}
  join:
    cmd: echo join >> tally; cat models/m-1.txt models/m-0.5.txt > all.txt
    deps: [models/m-1.txt, models/m-0.5.txt]
    params:
      - whole.yaml:
    outs: [all.txt]
"""
STAGES = ["split", "fit@1", "fit@0-5", "join"]


@dataclass
class Both:
    """One project, and Airboss beside DVC on it."""

    root: Path
    runner: PipelineRunner
    store: Store

    @property
    def project(self) -> Path:
        return self.root / "theirs"

    async def run(self, **more: bool) -> dict[str, str]:
        """A run of ours to its good end: state by stage."""
        config = parse_config('[pipeline.theirs]\nkind = "dvc"\npath = "theirs"\n', self.root / "airboss.toml")
        pipeline, _ = pipeline_of(config, "theirs", self.root)
        run_id = await self.runner.start(pipeline, overrides={}, actor="user:ann", reason="a test", context={}, **more)
        state = await self.runner.wait(run_id, 200)
        assert state is RunState.SUCCEEDED, self.store.read_now(lambda s: s.get_one(Run, run_id).error)
        ordered = select(StageRun).where(StageRun.run_id == run_id).order_by(col(StageRun.position))
        return self.store.read_now(lambda s: {row.name: row.state for row in s.exec(ordered)})

    async def plan(self) -> list[tuple[str, str]]:
        config = parse_config('[pipeline.theirs]\nkind = "dvc"\npath = "theirs"\n', self.root / "airboss.toml")
        pipeline, _ = pipeline_of(config, "theirs", self.root)
        planned = await self.runner.plan(pipeline, context={"workspace": str(self.root)})
        return [(one.action.value, one.why) for one in planned]

    def ran(self) -> list[str]:
        """The commands that ran since last asked."""
        tally = self.project / "tally"
        lines = tally.read_text().split() if tally.exists() else []
        tally.unlink(missing_ok=True)
        return lines

    def forget(self) -> None:
        """As if Airboss saw the project for the first time."""
        for entry in (self.root / ".airboss" / "cache").iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


@pytest.fixture
def both(pipelines: Any) -> Both:
    project = pipelines.root / "theirs"
    (project / "raw").mkdir(parents=True)
    (project / "models").mkdir()
    (project / "dvc.yaml").write_text(PROJECT)
    (project / "params.yaml").write_text("lr: 1e-4\ndeep: {on: yes, off: 2}\n")
    (project / "whole.yaml").write_text("since: soon\nnames: [a, ü]\nnothing:\n")
    (project / "raw" / "a.csv").write_text("a\n")
    (project / "raw" / "b.csv").write_text("b\r\n")
    (project / "raw" / "b.csv").chmod(0o755)
    (project / "raw" / "note.tmp").write_text("not data")
    (project / ".dvcignore").write_text("*.tmp\n")
    return Both(pipelines.root, pipelines.runner, pipelines.store)


@pytest.mark.deep
@with_dvc
async def test_what_airboss_has_run_dvc_finds_up_to_date_and_writes_no_other_word(both: Both) -> None:
    dvc(both.project, "init", "--no-scm")
    assert set((await both.run()).values()) == {"succeeded"}
    assert sorted(both.ran()) == ["fit", "fit", "join", "split"]
    assert "Data and pipelines are up to date" in dvc(both.project, "status")
    ours = yaml12.load((both.project / "dvc.lock").read_text())
    assert "didn't change" in dvc(both.project, "repro")
    assert both.ran() == []

    dvc(both.project, "repro", "--force", "--no-run-cache")
    assert (
        yaml12.load((both.project / "dvc.lock").read_text()) == ours
    )  # DVC's own run says the same, byte for byte of data
    (both.project / "all.txt").unlink()
    dvc(both.project, "checkout")  # out of the objects that we put into its cache
    assert (both.project / "all.txt").read_text() == "a\na\n"


@pytest.mark.deep
@with_dvc
async def test_what_dvc_has_run_airboss_does_not_run_again(both: Both) -> None:
    dvc(both.project, "init", "--no-scm")
    dvc(both.project, "repro")
    both.ran()
    assert await both.plan() == [("reuse", "up to date by dvc.lock")] * 4
    assert await both.run() == dict.fromkeys(STAGES, "cached")
    assert both.ran() == []

    (both.project / "raw" / "note.tmp").write_text("DVC does not look at this")
    (both.project / "params.yaml").write_text("lr: 0.0002\ndeep: {on: yes, off: 2}\n")
    dvc(both.project, "repro")
    assert sorted(both.ran()) == ["fit", "fit"]
    assert set((await both.run()).values()) == {"cached"}
    assert both.ran() == []
    assert set((await both.run(force=True)).values()) == {"succeeded"}
    assert len(both.ran()) == 4
    assert "up to date" in dvc(both.project, "status")


@pytest.mark.deep
@with_dvc
async def test_outputs_that_only_dvcs_cache_has_are_taken_from_there(both: Both) -> None:
    dvc(both.project, "init", "--no-scm")
    dvc(both.project, "repro")
    both.ran()
    shutil.rmtree(both.project / "parts")
    (both.project / "all.txt").write_text("somebody was here")
    assert set((await both.run()).values()) == {"cached"}
    assert both.ran() == []
    assert (both.project / "parts" / "deep" / "b").read_text() == "b\n"
    assert (both.project / "all.txt").read_text() == "a\na\n"
    assert "up to date" in dvc(both.project, "status")


async def test_without_dvc_the_lock_alone_says_what_need_not_run(both: Both) -> None:
    await both.run()
    both.ran()
    lock = both.project / "dvc.lock"
    said = lock.read_text()
    assert yaml12.load(said)["schema"] == "2.0"
    both.forget()
    assert set((await both.run()).values()) == {"cached"}
    assert both.ran() == []
    assert lock.read_text() == said

    both.forget()
    (both.project / "raw" / "a.csv").write_text("x\n")
    (both.project / "models" / "m-1.txt").write_text("tampered")
    assert (await both.run())["split"] == "succeeded"
    assert sorted(both.ran()) == ["fit", "fit", "join", "split"]


async def test_a_lock_that_cannot_be_read_stops_the_stage_and_is_left_as_it_is(both: Both) -> None:
    (both.project / "dvc.lock").write_text("<<<<<<< HEAD\nschema: '2.0'\n")
    with pytest.raises(AssertionError, match=r"dvc\.lock cannot be read"):
        await both.run()
    assert both.ran() == []
    assert (both.project / "dvc.lock").read_text().startswith("<<<<<<<")


def test_what_a_lock_says_of_other_stages_stays(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages:\n  old:\n    cmd: x\ndatasets: [1]\n")
    stage = dvc_lock.DvcStage(".", "new", "y", {}, {}, {})
    dvc_lock.record(tmp_path, stage, {"cmd": "y"})
    assert dvc_lock.read(tmp_path) == {
        "schema": "2.0",
        "stages": {"old": {"cmd": "x"}, "new": {"cmd": "y"}},
        "datasets": [1],
    }
