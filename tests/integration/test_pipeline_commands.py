"""Pipelines of one's own: commands in airboss.toml, and a stranger's DVC project, run for real in the workspace."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.runner import PipelineRunner
from state.config import Config, parse_config
from state.models import Run, StageRun
from state.store import Store
from state.words import ConfigError, RunState, UsageError

OWN = """
[pipeline.own]
kind = "stages"
params = { factor = 2, name = "x" }
[pipeline.own.stage.report]
command = "python report.py"
deps = ["report.py", "work/sums.json"]
outs = ["report.txt"]
metrics = ["work/sums.json"]
gates = ["total >= 10", "warning: total <= 11"]
[pipeline.own.stage.sums]
command = '''
echo counting >> sums.tally
python -c "import json,os;n=[int(x) for x in open('data.txt')];json.dump({'total':sum(n)*int(os.environ['PARAM_FACTOR'])},open('work/sums.json','w'))"
'''
deps = ["data.txt"]
outs = ["work/sums.json"]
params = ["factor"]
"""
REPORT = "import json\nopen('report.txt','w').write(str(json.load(open('work/sums.json'))['total']))\nopen('report.tally','a').write('x\\n')\n"


@dataclass
class Bench:
    root: Path
    store: Store
    runner: PipelineRunner

    async def run(self, config: Config, name: str, **more: Any) -> tuple[str, RunState]:
        pipeline, service = pipeline_of(config, name, self.root)
        given: dict[str, Any] = {
            "overrides": {},
            "actor": "user:ann",
            "reason": "a test",
            "context": {"service": service},
        } | more
        run_id = await self.runner.start(pipeline, **given)
        return run_id, await self.runner.wait(run_id, 120)

    def states(self, run_id: str) -> dict[str, str]:
        return self.store.read_now(
            lambda s: {
                r.name: r.state
                for r in s.exec(select(StageRun).where(StageRun.run_id == run_id).order_by(col(StageRun.position)))
            }
        )

    def error(self, run_id: str) -> str:
        return self.store.read_now(lambda s: s.get_one(Run, run_id).error)

    def tally(self, name: str) -> int:
        path = self.root / f"{name}.tally"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture
def bench(pipelines: Any) -> Bench:
    return Bench(pipelines.root, pipelines.store, pipelines.runner)


def own(bench: Bench, text: str = OWN) -> Config:
    (bench.root / "report.py").write_text(REPORT)
    if not (bench.root / "data.txt").exists():
        (bench.root / "data.txt").write_text("1\n2\n3\n")
    return parse_config(text, bench.root / "airboss.toml")


async def test_stages_run_in_the_order_of_their_files_and_repeat_only_what_changed(bench: Bench) -> None:
    config = own(bench)
    run_id, state = await bench.run(config, "own")
    assert state is RunState.SUCCEEDED, bench.error(run_id)
    assert (bench.root / "report.txt").read_text() == "12"
    assert bench.states((await bench.run(config, "own"))[0]) == {"sums": "cached", "report": "cached"}
    assert (bench.tally("sums"), bench.tally("report")) == (1, 1)

    (bench.root / "data.txt").write_text("3\n2\n1\n")  # other bytes, the same sum: what follows is not run again
    assert bench.states((await bench.run(config, "own"))[0]) == {"sums": "succeeded", "report": "cached"}
    run_id, _ = await bench.run(config, "own", overrides={"factor": "5"})
    assert (bench.root / "report.txt").read_text() == "30"
    assert (bench.tally("sums"), bench.tally("report")) == (3, 2)
    plan = await bench.runner.plan(pipeline_of(config, "own", bench.root)[0], context={"workspace": str(bench.root)})
    assert [(p.stage, p.action.value) for p in plan] == [("sums", "reuse"), ("report", "reuse")]


async def test_what_is_kept_is_put_in_place_again(bench: Bench) -> None:
    config = own(bench)
    await bench.run(config, "own")
    (bench.root / "report.txt").unlink()
    (bench.root / "work" / "sums.json").write_text("somebody else was here")
    await bench.run(config, "own")
    assert (bench.root / "report.txt").read_text() == "12"
    assert json.loads((bench.root / "work" / "sums.json").read_text()) == {"total": 12}
    assert (bench.tally("sums"), bench.tally("report")) == (1, 1)


async def test_a_gate_refuses_by_the_commands_own_numbers(bench: Bench) -> None:
    config = own(bench)
    (bench.root / "data.txt").write_text("1\n")
    run_id, state = await bench.run(config, "own")
    assert state is RunState.GATE_FAILED
    assert "total = 2, must be >= 10" in bench.error(run_id)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("exit 3", "the command ended with 3: exit 3"),
        ("kill -9 $$", "the command was killed by signal 9"),
        ("true", "the command did not write work/sums.json"),
        ("ln -s /etc/hostname work/sums.json", "symbolic link"),
        ("echo '{' > work/sums.json", "cannot be read"),
    ],
)
async def test_a_command_that_does_not_do_it_is_a_sentence_and_nothing_is_kept(
    bench: Bench, command: str, says: str
) -> None:
    text = OWN.replace(OWN[OWN.index("'''") : OWN.rindex("'''") + 3], f"'''{command}'''")
    text = text.replace('outs = ["work/sums.json"]', 'outs = ["work/sums.json"]\nmetrics = ["work/sums.json"]')
    run_id, state = await bench.run(own(bench, text), "own")
    assert state is RunState.FAILED
    assert says in bench.error(run_id)
    assert bench.states(run_id)["report"] == "skipped"


async def test_a_command_is_tried_again_as_often_as_it_may_be(bench: Bench) -> None:
    text = OWN.replace(
        "echo counting",
        "test $(wc -l < sums.tally || echo 0) -ge 2 || { echo no >> sums.tally; exit 1; }\necho counting",
    )
    text = text.replace('params = ["factor"]', 'params = ["factor"]\nretries = 3\nbackoff = "50ms"')
    (bench.root / "sums.tally").touch()
    run_id, state = await bench.run(own(bench, text), "own")
    assert state is RunState.SUCCEEDED, bench.error(run_id)
    assert bench.tally("sums") == 3


async def test_cancelling_kills_what_the_command_started(bench: Bench) -> None:
    text = OWN.replace("echo counting", "sleep 300 & echo $! > child.pid; wait\necho counting")
    config = own(bench, text)
    pipeline, _ = pipeline_of(config, "own", bench.root)
    run_id = await bench.runner.start(pipeline, overrides={}, actor="user:ann", reason="a test", context={})
    deadline = time.monotonic() + 30
    while not (bench.root / "child.pid").exists() or not (bench.root / "child.pid").read_text().strip():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    await bench.runner.cancel(run_id, "user:ann")
    stat = Path(f"/proc/{int((bench.root / 'child.pid').read_text())}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


SIDE_BY_SIDE = """
[pipeline.fan]
kind = "stages"
[pipeline.fan.stage.seed]
command = "echo 1 > seed.txt"
outs = ["seed.txt"]
[pipeline.fan.stage.left]
command = "touch left.here; for i in $(seq 200); do test -e right.here && break; sleep 0.05; done; test -e right.here && cp seed.txt left.txt"
deps = ["seed.txt"]
outs = ["left.txt"]
[pipeline.fan.stage.right]
command = "touch right.here; for i in $(seq 200); do test -e left.here && break; sleep 0.05; done; test -e left.here && cp seed.txt right.txt"
deps = ["seed.txt"]
outs = ["right.txt"]
"""


async def test_independent_stages_run_side_by_side_also_when_they_read_the_same(bench: Bench) -> None:
    run_id, state = await bench.run(parse_config(SIDE_BY_SIDE, bench.root / "airboss.toml"), "fan")
    assert state is RunState.SUCCEEDED, bench.error(run_id)


DVC = """
vars:
  - sizes: [1, 2]
stages:
  prepare:
    cmd: python prepare.py ${prepare.lines}
    deps: [prepare.py, raw.csv]
    params: [prepare.lines]
    outs: [build/data.csv]
  train:
    foreach: ${sizes}
    do:
      wdir: models
      cmd:
        - python ../train.py ${item} ../build/data.csv m${item}.txt
        - 'echo "{\\"score\\": ${item}}" > m${item}.json'
      deps: [../train.py, ../build/data.csv]
      params: [../params.yaml: [train]]
      outs:
        - m${item}.txt
      metrics:
        - m${item}.json: {cache: false}
  best:
    matrix:
      kind: [max, min]
    cmd: cat models/m1.txt models/m2.txt > ${item.kind}.txt
    deps: [models/m1.txt, models/m2.txt]
    outs:
      - ${item.kind}.txt:
          persist: true
"""


def stranger(root: Path) -> Config:
    """A project as somebody else wrote it, in a folder of the workspace."""
    project = root / "theirs"
    (project / "models").mkdir(parents=True)
    (project / "dvc.yaml").write_text(DVC)
    (project / "params.yaml").write_text("prepare: {lines: 2}\ntrain: {lr: 0.1, deep: {x: [1]}}\n")
    (project / "raw.csv").write_text("a\nb\nc\n")
    (project / "prepare.py").write_text(
        "import sys\nrows = open('raw.csv').read().split()[: int(sys.argv[1])]\nopen('build/data.csv', 'w').write('\\n'.join(rows))\n"
    )
    (project / "train.py").write_text(
        "import sys\nopen(sys.argv[3], 'w').write(sys.argv[1] + ':' + open(sys.argv[2]).read() + '\\n')\n"
    )
    return parse_config('[pipeline.theirs]\nkind = "dvc"\npath = "theirs"\n', root / "airboss.toml")


async def test_a_strangers_dvc_project_runs_unchanged(bench: Bench) -> None:
    config = stranger(bench.root)
    run_id, state = await bench.run(config, "theirs")
    assert state is RunState.SUCCEEDED, bench.error(run_id)
    assert list(bench.states(run_id)) == ["prepare", "train@1", "train@2", "best@max", "best@min"]
    assert (bench.root / "theirs" / "max.txt").read_text() == "1:a\nb\n2:a\nb\n"
    assert set(bench.states((await bench.run(config, "theirs"))[0]).values()) == {"cached"}

    (bench.root / "theirs" / "params.yaml").write_text("prepare: {lines: 2}\ntrain: {lr: 0.2, deep: {x: [1]}}\n")
    again = bench.states((await bench.run(config, "theirs"))[0])
    assert again == {
        "prepare": "cached",
        "train@1": "succeeded",
        "train@2": "succeeded",
        "best@max": "cached",
        "best@min": "cached",
    }
    pipeline, _ = pipeline_of(config, "theirs", bench.root)
    (bench.root / "theirs" / "raw.csv").write_text("z\n")
    plan = await bench.runner.plan(pipeline, context={"workspace": str(bench.root)})
    assert plan[0].why == "source theirs/raw.csv changed"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("${prepare.lines}", "${prepare.rows}"), "there is no 'prepare.rows'"),
        (("params: [prepare.lines]", "params: [prepare.rows]"), "there is no 'prepare.rows'"),
        (("outs: [build/data.csv]", "outs: [../../data.csv]"), "outside the workspace"),
        (("outs: [build/data.csv]", "outs: [build/data.csv]\n    color: red"), "'color' is not understood"),
        (
            ("persist: true", "persist: true\n  again:\n    cmd: x\n    outs: [build/data.csv]"),
            "both write theirs/build/data.csv",
        ),
        (("deps: [prepare.py, raw.csv]", "deps: [prepare.py, max.txt]"), "in a circle"),
        (("stages:", "stagges:"), "has no stages"),
    ],
)
def test_what_cannot_be_meant_in_a_dvc_file_is_a_sentence(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    config = stranger(tmp_path)
    assert change[0] in DVC
    (tmp_path / "theirs" / "dvc.yaml").write_text(DVC.replace(*change))
    with pytest.raises(UsageError) as refused:
        pipeline_of(config, "theirs", tmp_path)
    assert says in refused.value.message


def test_a_table_in_a_template_becomes_options(tmp_path: Path) -> None:
    config = stranger(tmp_path)
    (tmp_path / "theirs" / "dvc.yaml").write_text("stages:\n  a:\n    cmd: x ${opts} \\${HOME}\n    params: [opts]\n")
    (tmp_path / "theirs" / "params.yaml").write_text("opts: {lr: 0.1, fast: true, slow: false, names: [a, b]}\n")
    (stage,) = pipeline_of(config, "theirs", tmp_path)[0].stages
    assert stage.params["commands"] == ["x --lr 0.1 --fast --names a b ${HOME}"]
    assert stage.params["values"] == {"opts": {"lr": 0.1, "fast": True, "slow": False, "names": ["a", "b"]}}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('kind = "stages"', "needs [pipeline.NAME.stage.STAGE]"),
        ('kind = "stages"\n[pipeline.own.stage.a]\ncommand = "x"\nentry = "a:b"', "a command or an entry"),
        ('kind = "stages"\n[pipeline.own.stage.a]\ncommand = "x"\ngates = ["acc over 9"]', "METRIC >= NUMBER"),
        ('kind = "stages"\n[pipeline.own.stage.a]\ncommand = "x"\nouts = ["../up"]', "inside the workspace"),
        ('kind = "stages"\n[pipeline.own.stage.a]\ncommand = "x"\nrelease = true', "cannot make a release"),
        ('kind = "charlm"\n[pipeline.own.stage.a]\ncommand = "x"', 'kind = "stages"'),
    ],
)
def test_a_wrong_table_is_named_with_its_line(line: str, says: str) -> None:
    with pytest.raises(ConfigError, match=r"airboss.toml:\d+: pipeline\.own") as refused:
        parse_config(f"[pipeline.own]\n{line}\n", Path("airboss.toml"))
    assert says in refused.value.message


def test_a_parameter_that_is_not_there_is_named(bench: Bench) -> None:
    config = parse_config(OWN.replace('params = ["factor"]', 'params = ["factr"]'), bench.root / "airboss.toml")
    with pytest.raises(UsageError, match="params names 'factr'"):
        pipeline_of(config, "own", bench.root)
