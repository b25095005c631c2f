"""Tiny stages for the runner's tests. They are copied beside a test's workspace and found by the pipeline's code path."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from engine.pipelines.stage import Gate, StageContext, StageResult
from state.digests import bundle_digest, hash_tree


def tally(ctx: StageContext) -> int:
    """Note that the stage was really run; returns how often it has been."""
    path = Path(ctx.context["workspace"]) / f"{ctx.stage}.tally"
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len(path.read_text().splitlines())


def wait_for(ctx: StageContext) -> None:
    """Stand until the test says go, if it asked for that."""
    if name := ctx.params.get("wait_for"):
        (Path(ctx.context["workspace"]) / f"{ctx.stage}.started").write_text(str(os.getpid()))
        ctx.progress(step=1)
        while not (Path(ctx.context["workspace"]) / name).exists():
            time.sleep(0.02)


def make(ctx: StageContext) -> StageResult:
    """Write one file."""
    tally(ctx)
    (ctx.out_dir / "number.txt").write_text(str(ctx.params.get("number", 1)))
    wait_for(ctx)
    return StageResult({"number": float(ctx.params.get("number", 1))})


def double(ctx: StageContext) -> StageResult:
    """Read the needed file and write twice its number."""
    tally(ctx)
    wait_for(ctx)
    number = int((ctx.inputs["make"] / "number.txt").read_text())
    (ctx.out_dir / "double.txt").write_text(str(number * 2))
    return StageResult({"double": float(number * 2)})


def same(ctx: StageContext) -> StageResult:
    """Write the same whatever it is given."""
    tally(ctx)
    (ctx.out_dir / "same.txt").write_text("same")
    return StageResult({})


def gated(ctx: StageContext) -> StageResult:
    """Report the gate that the parameters describe."""
    tally(ctx)
    (ctx.out_dir / "report.txt").write_text("looked")
    value = ctx.params["value"]
    gate = Gate("loss", float("nan") if value == "nan" else value, 2.0, "<=", blocking=ctx.params.get("blocking", True))
    return StageResult({"loss": float("nan") if value == "nan" else value}, (gate,))


def unreachable_at_first(ctx: StageContext) -> StageResult:
    """Fail as the network does, twice."""
    if tally(ctx) <= 2:
        raise ConnectionError("the other side hung up")
    (ctx.out_dir / "number.txt").write_text("1")
    return StageResult({})


def broken(ctx: StageContext) -> StageResult:
    """Fail as a bug does."""
    tally(ctx)
    raise ValueError("this stage has a bug")


def with_children(ctx: StageContext) -> StageResult:
    """Start a child that ignores SIGTERM, then stand."""
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    (Path(ctx.context["workspace"]) / "pids").write_text(f"{os.getpid()} {child.pid}")
    signal.pause()
    return StageResult({})


def edit_own_source(ctx: StageContext) -> StageResult:
    """Change this module's file on the first run, as an editor would while the stage runs."""
    if tally(ctx) == 1:
        with Path(__file__).open("a") as file:
            file.write("\nEDITED = True\n")
    return StageResult({})


def register(ctx: StageContext) -> StageResult:
    """Pretend to register, under the build key."""
    tally(ctx)
    with (Path(ctx.context["workspace"]) / "build-keys").open("a") as file:
        file.write(f"{ctx.context['build_key']} {ctx.context['release_id']}\n")
    return StageResult({}, facts={"model": {"name": "toy", "version": "7"}})


def release(ctx: StageContext) -> StageResult:
    """Make a bundle."""
    tally(ctx)
    bundle = ctx.out_dir / "bundle"
    bundle.mkdir()
    (bundle / "weights.bin").write_bytes(b"weights" * int(ctx.params.get("size", 3)))
    (bundle / "release.json").write_text("{}")
    digest = bundle_digest(hash_tree(bundle))
    said = "0" * 64 if ctx.params.get("lie") else digest
    return StageResult(
        {},
        facts={
            "release": {
                "digest": said,
                "seed": 5,
                "metrics": {"loss": 1.5},
                "context_length": 64,
                "weights_from": {"release_id": "toy-x"},
            },
            "dataset": {"sha256": "d" * 64, "name": "toy", "source": "made up", "rows": 3, "chars": 30},
            "prompt": {"name": "toy", "body": {"system": "be small"}},
        },
    )
