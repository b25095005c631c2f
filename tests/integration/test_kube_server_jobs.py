"""Jobs of the test API server: by script, and by really running their command."""

from __future__ import annotations

import sys
from typing import Any

from kube.server import KubeServer
from kubernetes import client


def job(*command: str, **spec: Any) -> dict[str, Any]:
    """A Job of one container."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "stage", "image": "stage:1", "command": list(command)}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "train"},
        "spec": {"template": {"spec": pod}, **spec},
    }


def test_a_job_fails_and_succeeds_on_its_second_pod_and_keeps_both_logs(kube: KubeServer, kube_client: Any) -> None:
    kube.automatic = False
    kube.jobs.exits("train", (3, "no data\n"), (0, "done\n"))
    client.BatchV1Api(kube_client).create_namespaced_job("default", job())
    kube.settle()
    status = client.BatchV1Api(kube_client).read_namespaced_job("train", "default").status
    assert (status.succeeded, status.failed) == (1, 1) and status.conditions[-1].type == "Complete"
    core = client.CoreV1Api(kube_client)
    pods = core.list_namespaced_pod("default", label_selector="job-name=train").items
    assert {core.read_namespaced_pod_log(pod.metadata.name, "default") for pod in pods} == {"no data\n", "done\n"}


def test_a_job_that_always_fails_reaches_its_limit(kube: KubeServer) -> None:
    kube.automatic = False
    kube.jobs.exits("train", (1, "broken"))
    kube.create(job(backoffLimit=1))
    kube.settle()
    status = kube.object("jobs", "train")["status"]
    assert status["failed"] == 2 and status["conditions"][-1]["reason"] == "BackoffLimitExceeded"


def test_a_job_runs_its_command_and_its_exit_code_counts(kube: KubeServer) -> None:
    kube.jobs.runs_commands = True
    kube.create(job(sys.executable, "-c", "print('trained'); raise SystemExit(7)", backoffLimit=0))
    kube.wait_for(lambda: bool(kube.object("jobs", "train")["status"].get("conditions")), "the job ends")
    (pod,) = kube.objects("pods")
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 7
    assert kube.jobs.log_of(pod) == ("trained\n", True)
