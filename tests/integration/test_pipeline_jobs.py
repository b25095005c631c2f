"""A pipeline whose stages are Jobs of a cluster, by the runner of an engine: cached, cancelled, and gone on with after a restart."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from kube.server import KubeServer
from test_pipeline_commands import Bench, bench

from engine.pipelines.runner import PipelineRunner
from state.config import Config, parse_config
from state.models import StageRun
from state.words import ConfigError, RunState

__all__ = ["bench"]
pytestmark = pytest.mark.timeout(90)
TOML = """
[pipeline.remote]
kind = "stages"
executor = "kubernetes"
[pipeline.remote.kubernetes]
kubeconfig = "{kubeconfig}"
namespace = "default"
image = "train:1"
volume = "workspaces"
[pipeline.remote.stage.sums]
command = "{command}"
deps = ["data.txt"]
outs = ["sums.txt"]
kubernetes = {{ image = "train:{tag}" }}
[pipeline.remote.stage.here]
executor = "local"
command = "cat sums.txt sums.txt > twice.txt"
deps = ["sums.txt"]
outs = ["twice.txt"]
"""


@pytest.fixture
def toml(kube: KubeServer, kubeconfig: Path) -> Callable[..., Config]:
    kube.jobs.runs_commands = True

    def made(command: str, tag: int = 2) -> Config:
        return parse_config(TOML.format(kubeconfig=kubeconfig, command=command, tag=tag), Path("airboss.toml"))

    return made


async def until(claim: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline, f"not within 60 s: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.deep
async def test_stages_run_as_jobs_once_and_again_only_for_another_image(
    bench: Bench, kube: KubeServer, toml: Callable[..., Config]
) -> None:
    (bench.root / "data.txt").write_text("5\n")
    run_id, state = await bench.run(toml("cp data.txt sums.txt; echo said in the pod"), "remote")
    assert state is RunState.SUCCEEDED, bench.error(run_id)
    assert (bench.root / "twice.txt").read_text() == "5\n5\n"
    assert "said in the pod" in (bench.root / ".airboss" / "runs" / run_id / "sums.log").read_text()
    assert [job["spec"]["template"]["spec"]["containers"][0]["image"] for job in kube.objects("jobs")] == ["train:2"]
    run_id, _ = await bench.run(toml("cp data.txt sums.txt; echo said in the pod"), "remote")
    assert bench.states(run_id) == {"sums": "cached", "here": "cached"}
    run_id, _ = await bench.run(toml("cp data.txt sums.txt; echo said in the pod", tag=3), "remote")
    assert bench.states(run_id) == {"sums": "succeeded", "here": "cached"}


@pytest.mark.deep
async def test_a_restarted_engine_and_a_killed_stage_go_on_with_the_job(
    bench: Bench, kube: KubeServer, toml: Callable[..., Config]
) -> None:
    (bench.root / "data.txt").write_text("5\n")
    config = toml("echo x >> ../tally; while [ ! -e ../go ]; do sleep 0.05; done; cp data.txt sums.txt")
    from engine.pipelines.catalogue import pipeline_of

    pipeline, service = pipeline_of(config, "remote", bench.root)
    run_id = await bench.runner.start(pipeline, overrides={}, actor="user:ann", reason="", context={"service": service})
    tally = bench.root.parent / "tally"
    await until(tally.exists, "the command has begun")
    await bench.runner.close()
    row = bench.store.read_now(lambda s: s.get_one(StageRun, (run_id, "sums")).model_dump())
    child = bench.runner._shop.spawner.adopt(row["spawn_id"])
    assert child is not None
    os.killpg(child.pid, signal.SIGKILL)
    shop = bench.runner._shop
    bench.runner = PipelineRunner(
        bench.store, shop.spawner, shop.paths, registry_socket=shop.registry_socket, on_change=lambda ref: None
    )
    await bench.runner.resume_all()
    (bench.root.parent / "go").touch()
    assert await bench.runner.wait(run_id, 60) is RunState.SUCCEEDED, bench.error(run_id)
    assert tally.read_text() == "x\n" and len(kube.objects("jobs")) == 1


@pytest.mark.deep
async def test_cancelling_deletes_the_job_also_when_the_stage_cannot(
    bench: Bench, kube: KubeServer, toml: Callable[..., Config]
) -> None:
    (bench.root / "data.txt").write_text("5\n")
    from engine.pipelines.catalogue import pipeline_of

    pipeline, service = pipeline_of(toml("touch ../begun; sleep 600"), "remote", bench.root)
    run_id = await bench.runner.start(pipeline, overrides={}, actor="user:ann", reason="", context={"service": service})
    await until((bench.root.parent / "begun").exists, "the command has begun")
    (child,) = bench.runner._shop.children.values()
    os.kill(child.pid, signal.SIGSTOP)  # it hears no SIGTERM: its process is killed, the engine itself deletes the Job
    await bench.runner.cancel(run_id, "user:ann")
    await until(lambda: not kube.objects("jobs"), "the Job is deleted")
    assert bench.states(run_id)["sums"] == "cancelled"


def test_what_cannot_be_a_job_is_refused_before_anything_runs(toml: Callable[..., Config]) -> None:
    head = f'[pipeline.p]\nkind = "stages"\n[pipeline.p.stage.s]\ncommand = "{Path(sys.executable).name}"\n'
    for text, said in (
        (head + 'executor = "kubernetes"\n', r"needs \[pipeline.NAME.kubernetes\]"),
        ('[pipeline.p]\nexecutor = "kubernetes"\n', "stages of charlm are Python"),
        (head + '[pipeline.p.kubernetes]\nnamespace = "a"\nimage = "b"\n', "by volume or by store"),
        (head + '[pipeline.p.kubernetes]\nnamespace = "a"\nimage = "b"\nstore = "bucket"\n', "must be a URL"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_config(text, Path("airboss.toml"))
