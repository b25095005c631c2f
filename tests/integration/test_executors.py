"""StageExecutor's contract, held by the shell of this host and by Jobs of a cluster, their files on a volume or in an object store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kube.server import KubeServer

from adapters.executing import CommandFailed, StageExecutor, Work
from adapters.kubernetes import job_objects
from adapters.kubernetes.jobs import KubeJobs
from adapters.local.commands import LocalCommands
from state.job_config import JobPods
from state.words import Denied

pytestmark = pytest.mark.timeout(90)
COUNT = "mkdir -p out; read N < data.txt; echo counted $N; expr $N \\* $PARAM_BY > out/sum.txt; echo '{\"sum\": 1}' > sum.json"


@dataclass
class Place:
    """A workspace `root`, an executor over it, and how another process makes that executor."""

    root: Path
    settings: dict[str, Any] | None
    said: list[dict[str, Any]]
    look_s: float = 0.05

    @property
    def executor(self) -> StageExecutor:
        if self.settings is None:
            return LocalCommands(self._say)
        return KubeJobs(JobPods.model_validate(self.settings), self.root, self._say, look_s=self.look_s)

    def _say(self, **facts: Any) -> None:
        self.said.append(facts)

    def work(self, *commands: str, **more: Any) -> Work:
        given: dict[str, Any] = {
            "env": {"PARAM_BY": "3"},
            "takes": ("data.txt",),
            "gives": ("out",),
            "may_give": ("sum.json",),
        }
        return Work("run-1", "count", "k" * 64, 1, self.root, ".", commands, **{**given, "timeout_s": 60, **more})

    def clean(self) -> None:
        """The outs that the commands make anew."""


@pytest.fixture(params=["local", "volume", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return _place(request.param, request, tmp_path)


@pytest.fixture
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return _place("volume", request, tmp_path)


def _place(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "data.txt").write_text("7\n")
    if kind == "local":
        return Place(root, None, [])
    kube: KubeServer = request.getfixturevalue("kube")
    kube.jobs.runs_commands = True
    kubeconfig = request.getfixturevalue("kubeconfig")
    files = (
        {"volume": "workspaces"} if kind == "volume" else {"store": f"file://{tmp_path}/store", "helper": "helper:1"}
    )
    path = {"name": "PATH", "value": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # where python3 has fsspec
    settings = {
        "kubeconfig": str(kubeconfig), "namespace": "default", "image": "train:1", "limits": {"memory": "1Gi"},
        "container": {"env": [path]},
    }  # fmt: skip
    return Place(root, {**settings, **files}, [])


def test_commands_run_in_order_and_what_they_give_is_in_place(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    place.executor.run(place.work(COUNT, "echo then; cat out/sum.txt > out/copy.txt"), place.clean)
    assert (place.root / "out" / "sum.txt").read_text() == (place.root / "out" / "copy.txt").read_text() == "21\n"
    assert json.loads((place.root / "sum.json").read_text()) == {"sum": 1}
    lines = capfd.readouterr().out.splitlines()
    assert [line for line in lines if line in ("counted 7", "then")] == ["counted 7", "then"]


def test_the_first_command_that_fails_ends_it_and_its_code_is_quoted(place: Place) -> None:
    with pytest.raises(CommandFailed, match=r"the command ended with 3: ") as caught:
        place.executor.run(place.work("exit 3", "mkdir -p out; touch out/after"), place.clean)
    assert caught.value.retryable and not (place.root / "out" / "after").exists()


def test_a_killed_command_says_so(place: Place) -> None:
    with pytest.raises(CommandFailed, match="killed by"):
        place.executor.run(place.work("kill -9 $$"), place.clean)


def test_a_word_to_end_ends_the_command(place: Place, tmp_path: Path) -> None:
    """SIGTERM to the stage's own process: nothing goes on, here or in the cluster."""
    program = textwrap.dedent(f"""
        import sys; sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from adapters.executing import Work
        from engine.pipelines.executors import executor_of
        root = Path({str(place.root)!r})
        work = Work("run-1", "count", "k" * 64, 1, root, ".", ("echo begun; exec sleep 600",), takes=("data.txt",), timeout_s=60)
        executor_of({place.settings!r} or {{}}, root, lambda **facts: None).run(work, lambda: None)
    """)
    stage = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert stage.stdout is not None and stage.stdout.readline() == "begun\n"
    os.killpg(stage.pid, signal.SIGTERM)
    assert stage.wait(30) == -signal.SIGTERM
    assert not stage.stdout.read(), "whoever held the pipe is gone"


def test_a_job_is_what_the_stage_says(cluster: Place, kube: KubeServer) -> None:
    cluster.executor.run(cluster.work(COUNT), cluster.clean)
    (job,) = kube.objects("jobs")
    spec, labels = job["spec"], job["metadata"]["labels"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"]) == (0, 60, 86400)
    assert labels["airboss.dev/run"] == "run-1" and labels["airboss.dev/taken"] == "true"
    assert spec["podFailurePolicy"]["rules"][0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    pod = spec["template"]["spec"]
    stage = pod["containers"][0]
    assert stage["image"] == "train:1" and stage["resources"]["limits"] == {"memory": "1Gi"}
    assert stage["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_work_that_goes_on_is_gone_on_with_and_not_begun_again(cluster: Place, kube: KubeServer) -> None:
    """The stage's process was killed: the next one finds the Job, cleans nothing, and takes what it made."""
    work = cluster.work(
        "echo x >> $TALLY; while [ ! -e $GO ]; do sleep 0.05; done; mkdir -p out; echo made > out/made.txt"
    )
    outside = {"TALLY": str(cluster.root.parent / "tally"), "GO": str(cluster.root.parent / "go")}
    work = cluster.work(*work.commands, env=outside)
    first = cluster.executor
    assert isinstance(first, KubeJobs)
    cluster.clean()
    _begin(first, work)
    kube.wait_for(lambda: Path(outside["TALLY"]).exists(), "the command has begun")
    Path(outside["GO"]).touch()

    def refuse() -> None:
        raise AssertionError("what goes on must not be cleaned away")

    cluster.executor.run(work, refuse)
    assert (cluster.root / "out" / "made.txt").read_text() == "made\n"
    assert Path(outside["TALLY"]).read_text() == "x\n" and len(kube.objects("jobs")) == 1


def _begin(executor: KubeJobs, work: Work) -> None:
    """As much as a process does that is killed once its Job is made."""
    import asyncio

    async def begin() -> None:
        await executor._start(work)
        await executor._client.close()

    asyncio.run(begin())


def test_out_of_memory_is_said_with_the_limit(cluster: Place, kube: KubeServer) -> None:
    name = job_objects.job_name(cluster.work("true"), _mark(cluster))
    kube.jobs.exits(name, (137, "loading\n", "OOMKilled"))
    with pytest.raises(CommandFailed, match=r"OOMKilled \(exit 137\): it took more memory than 1Gi"):
        cluster.executor.run(cluster.work("true"), cluster.clean)


def _mark(place: Place) -> str:
    executor = place.executor
    assert isinstance(executor, KubeJobs)
    return executor._place


def test_an_api_server_that_is_away_for_a_while_costs_nothing(cluster: Place, kube: KubeServer) -> None:
    kube.fail(503, "GET", "jobs", times=6)
    cluster.executor.run(cluster.work(COUNT), cluster.clean)
    assert (cluster.root / "out" / "sum.txt").read_text() == "21\n" and len(kube.objects("jobs")) == 1


def test_an_answer_that_was_lost_makes_no_second_job(cluster: Place, kube: KubeServer) -> None:
    kube.reset("after", "POST", "jobs")
    cluster.executor.run(cluster.work(COUNT), cluster.clean)
    assert len(kube.objects("jobs")) == 1


def test_what_is_not_allowed_is_said_and_not_tried_again(cluster: Place, kube: KubeServer) -> None:
    kube.fail(403, "POST", "jobs")
    with pytest.raises(Denied) as caught:
        cluster.executor.run(cluster.work(COUNT), cluster.clean)
    assert not caught.value.retryable
