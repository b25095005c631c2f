"""`airboss bench pipeline`: what a stage costs besides its command, run and not run again, beside `dvc repro` on the same dvc.yaml."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from adapters.local.spawn import Spawner
from engine.bench.pipeline.hashing import HASH_BYTES, QUICK_BYTES, hashing_rows
from engine.bench.progress import say
from engine.bench.report import Report, Row, busy_notes, compared, interleaved, limited, not_measured
from engine.pipelines.attempt import read_world
from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.planner import plan
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.workshop import NICE
from state.config import parse_config
from state.paths import Paths
from state.store import Store
from state.words import OperationFailed, RunState

STAGES, FEW, MANY, WIDTH = 30, 3, 1000, 3
ROUNDS, QUICK_ROUNDS = 5, 1
DVC = "dvc repro"
ABSENT = "no dvc here: `pipx install dvc`, or name it by --dvc"
NO_OP, EXECUTED = "≥ 5 × faster", "≤ half of DVC's"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--dvc", default=os.environ.get("AIRBOSS_DVC"), help="The dvc program (default: the PATH's).")
    parser.add_argument("--stages", type=int, default=STAGES, help=f"Of the graph that runs (default {STAGES}).")


def measure(options: argparse.Namespace) -> Report:
    """Whole runs of `--stages` stages and of a few: the difference has what a stage costs, without anybody's start."""
    dvc = shutil.which(options.dvc or "dvc")
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    stages = max(options.stages, FEW + WIDTH)
    with tempfile.TemporaryDirectory(prefix="airboss-bench-") as folder, _private_sockets(Path(folder)):
        found = _runs(Path(folder), dvc, rounds, stages)
        hashed = tuple(hashing_rows(Path(folder) / "hash", QUICK_BYTES if options.quick else HASH_BYTES, rounds))
        planned = [_plan_s(Path(folder) / f"plan-{at}") for at in range(rounds)]
    plan_row = limited(f"plan of {MANY} stages", "s", planned, at_most=1.0, note="code and data hashed, nothing kept")
    notes = (
        *busy_notes(),
        "ours: the runner in a process that stays, as the engine does; DVC starts anew for each run",
        _nice(),
    )
    return Report("pipeline", (*_rows(found, stages, dvc is not None), plan_row, *hashed), notes=notes)


def _nice() -> str:
    return f"DVC runs at nice {NICE} too, as our stages do; ours run two at a time, DVC's one after the other"


Found = Mapping[str, Sequence[float]]
"""Side and case (`ours, executed, 30`) → seconds of each round."""


def _runs(folder: Path, dvc: str | None, rounds: int, stages: int) -> Found:
    found: dict[str, list[float]] = {}
    for count in (FEW, stages):
        ours, theirs = project(folder / f"ours-{count}", count), project(folder / f"dvc-{count}", count)
        sides: dict[str, Callable[[bool], float]] = {"ours": partial(_ours, ours)}
        if dvc is not None:
            _dvc(dvc, theirs, "init", "--no-scm", "--quiet")
            sides["dvc"] = partial(_dvc_run, dvc, theirs)
        for force, case in ((True, "executed"), (False, "not again")):
            say(f"{count} stages, {case}: {rounds} rounds")
            timed = interleaved(rounds, {name: partial(run, force) for name, run in sides.items()})
            found |= {f"{side}, {case}, {count}": seconds for side, seconds in timed.items()}
    return found


def _rows(found: Found, stages: int, has_dvc: bool) -> Iterator[Row]:
    for case, target, whole, each in (
        ("executed", 0.5, f"{stages} stages run", "a stage run, besides its command"),
        ("not again", 0.2, f"{stages} stages, nothing changed", "a stage that need not run"),
    ):
        ours, few = found[f"ours, {case}, {stages}"], found[f"ours, {case}, {FEW}"]
        slope = [(a - b) * 1000 / (stages - FEW) for a, b in zip(ours, few, strict=True)]
        said = EXECUTED if case == "executed" else NO_OP
        if not has_dvc:
            yield not_measured(whole, "s", DVC, ABSENT, said)
            yield not_measured(each, "ms", DVC, ABSENT)
            continue
        theirs, their_few = found[f"dvc, {case}, {stages}"], found[f"dvc, {case}, {FEW}"]
        their_slope = [(a - b) * 1000 / (stages - FEW) for a, b in zip(theirs, their_few, strict=True)]
        no_op = case == "not again"
        yield compared(
            whole, "s", ours, theirs, DVC, at_most=target if no_op else None, note="from the start to the last stage"
        )
        yield compared(
            each,
            "ms",
            slope,
            their_slope,
            DVC,
            at_most=None if no_op else target,
            note=f"{stages} less {FEW} stages, by the stage",
        )


def project(root: Path, stages: int) -> Path:
    """A workspace with a dvc.yaml of so many stages, three abreast, each of which copies what the one before it wrote."""
    root.mkdir(parents=True)
    lines = ["stages:"]
    for at in range(stages):
        dep = "seed.txt" if at < WIDTH else f"{at - WIDTH}.txt"
        lines += [f"  s{at}:", f"    cmd: cp {dep} {at}.txt", f"    deps: [{dep}]", f"    outs: [{at}.txt]"]
    (root / "dvc.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (root / "seed.txt").write_text("seed\n", encoding="utf-8")
    return root


def _ours(root: Path, force: bool) -> float:
    return asyncio.run(_ours_run(root, force))


async def _ours_run(root: Path, force: bool) -> float:
    """Seconds of one run, the reading of dvc.yaml with it. Raises OperationFailed when it does not succeed."""
    config = parse_config('[pipeline.bench]\nkind = "dvc"\n', root / "airboss.toml")
    paths = Paths.of(root)
    paths.make()
    store = Store.open(paths.store)
    runner = PipelineRunner(
        store, Spawner(paths.run, paths.logs), paths, registry_socket=_no_registry, on_change=lambda ref: None
    )  # fmt: skip
    try:
        began = time.perf_counter()
        pipeline, _ = pipeline_of(config, "bench", root)
        run_id = await runner.start(pipeline, overrides={}, actor="user:bench", reason="bench", force=force, context={})
        state = await runner.wait(run_id)
        took = time.perf_counter() - began
    finally:
        await runner.close()
        store.close()
    if state is not RunState.SUCCEEDED:
        raise OperationFailed(f"the bench's own run {state}", hint=f"see {paths.runs / run_id}")
    return took


async def _no_registry() -> str:
    raise OperationFailed("no stage of the benchmark asks the registry")


def _dvc_run(dvc: str, root: Path, force: bool) -> float:
    began = time.perf_counter()
    _dvc(dvc, root, "repro", "--quiet", *(("--force",) if force else ()))
    return time.perf_counter() - began


def _dvc(dvc: str, root: Path, *words: str) -> None:
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / ".dvc-site")}
    done = subprocess.run(
        ["nice", "-n", str(NICE), dvc, *words], cwd=root, env=env, stdin=subprocess.DEVNULL, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise OperationFailed(f"dvc {words[0]} ended with {done.returncode}: {done.stdout.strip()[-300:]}")


def _plan_s(root: Path) -> float:
    """Seconds to read a dvc.yaml of a thousand stages, look at code and data, and say what each stage would do."""
    project(root, MANY)
    config = parse_config('[pipeline.bench]\nkind = "dvc"\n', root / "airboss.toml")
    began = time.perf_counter()
    pipeline, _ = pipeline_of(config, "bench", root)
    plan(pipeline, read_world(pipeline, pipeline.stages, {"workspace": str(root)}))
    return time.perf_counter() - began


@contextmanager
def _private_sockets(folder: Path) -> Iterator[None]:
    """Run files of the bench's workspaces lie with them, and leave with them."""
    before = os.environ.get("XDG_RUNTIME_DIR")
    home = folder / "sockets"
    home.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(home)
    try:
        yield
    finally:
        if before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = before
