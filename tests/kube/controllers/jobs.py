"""Jobs: each pod ends with the exit code a test scripted, or that of its command, really run."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from kube.controllers.common import (
    PODS,
    Controller,
    condition,
    counts,
    is_ending,
    owned,
    owner_reference,
    with_condition,
)
from kube.errors import ApiError
from kube.resources import resource
from kube.values import Obj, at, copied, safe_name

JOBS = resource("jobs")


class Jobs(Controller):
    """The job controller, and the kubelet of jobs' pods."""

    runs_commands = False
    """True: the command of a pod's first container is run here, with its environment; else `exits` says how it ends."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._exits: dict[str, list[tuple[int, str]]] = {}
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._logs: dict[str, str] = {}

    def exits(self, job: str, *ends: tuple[int, str]) -> None:
        """The (exit code, log) of the job's pods in their order; the last holds for all after it, none means still running."""
        self._exits[job] = list(ends)

    def log_of(self, pod: Obj) -> tuple[str, bool] | None:
        """(what a job's pod printed so far, whether it has ended); None for a pod of no job."""
        uid = pod["metadata"]["uid"]
        if uid in self._running:
            return self._running[uid][1].read_text(errors="replace"), False
        return (self._logs[uid], True) if uid in self._logs else None

    def stop(self) -> None:
        """End the commands that still run."""
        for process, _ in self._running.values():
            process.kill()
            process.wait()

    def reconcile(self) -> None:
        """One step of every job that has not ended."""
        for job in self.store.all(JOBS):
            ended = any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))
            if not ended and not is_ending(job) and not job["spec"].get("suspend"):
                self._step(job)

    def _step(self, job: Obj) -> None:
        pods = owned(self.store, PODS, job)
        for pod in pods:
            if at(pod, "spec", "nodeName") and at(pod, "status", "phase") in ("Pending", "Running"):
                self._run(job, pod)
        pods = [pod for pod in owned(self.store, PODS, job) if not is_ending(pod)]
        phases = [at(pod, "status", "phase") for pod in pods]
        good, bad, active = (
            phases.count("Succeeded"),
            phases.count("Failed"),
            len([p for p in phases if p in ("Pending", "Running")]),
        )
        spec = job["spec"]
        started = at(job, "status", "startTime", default=self.clock.stamp())
        late = "activeDeadlineSeconds" in spec and self.clock.age_s(started) > spec["activeDeadlineSeconds"]
        rows = at(job, "status", "conditions", default=[])
        more: Obj = {}
        if good >= spec["completions"]:
            rows = self._ended(rows, "Complete", "CompletionsReached", "Reached expected number of succeeded pods")
            more["completionTime"] = self.clock.stamp()
        elif bad > spec["backoffLimit"] or late:
            reason, said = (
                ("DeadlineExceeded", "Job was active longer than specified deadline")
                if late
                else ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
            )
            rows = self._ended(rows, "Failed", reason, said)
            for pod in pods if late else []:
                self.writes.delete(PODS, pod, {"gracePeriodSeconds": 0})
            active = 0
        else:
            for _ in range(min(spec["parallelism"], spec["completions"] - good) - active):
                active += self._start(job)
        live = self.store.get(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])
        status = {
            "startTime": started,
            **counts(active=active, succeeded=good, failed=bad),
            **more,
            "uncountedTerminatedPods": {},
            "ready": phases.count("Running"),
        }
        self.writes.set_status(JOBS, live, {**status, **({"conditions": rows} if rows else {})})

    def _ended(self, rows: list[Obj], kind: str, reason: str, message: str) -> list[Obj]:
        before = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
        for each in (before, kind):
            rows = with_condition(
                rows,
                {
                    "type": each,
                    "status": "True",
                    "reason": reason,
                    "message": message,
                    "lastProbeTime": self.clock.stamp(),
                },
                self.clock.stamp(),
            )
        return rows

    def _start(self, job: Obj) -> int:
        template = copied(job["spec"]["template"])
        name = job["metadata"]["name"]
        meta = {
            **template.get("metadata", {}),
            "name": f"{name}-{safe_name()}",
            "generateName": f"{name}-",
            "ownerReferences": [owner_reference(job)],
        }
        try:
            self.writes.create(PODS, job["metadata"]["namespace"], {"metadata": meta, "spec": template["spec"]})
        except ApiError:
            return 0
        self.event(job, "SuccessfulCreate", f"Created pod: {meta['name']}", component="job-controller")
        return 1

    def _run(self, job: Obj, pod: Obj) -> None:
        uid, ends = (
            pod["metadata"]["uid"],
            self._exits.get(job["metadata"]["name"], [] if self.runs_commands else [(0, "")]),
        )
        code, log = None, ""
        if ends and not self.runs_commands:
            code, log = ends.pop(0) if len(ends) > 1 else ends[0]
        elif self.runs_commands:
            process, path = self._running.get(uid) or self._launch(pod)
            self._running[uid] = process, path
            code, log = process.poll(), path.read_text(errors="replace")
        live = self.store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        container = pod["spec"]["containers"][0]
        state: Obj = {"running": {"startedAt": at(pod, "status", "startTime", default=self.clock.stamp())}}
        phase, stamp = "Running", self.clock.stamp()
        if code is not None:
            self._logs[uid] = log
            self._running.pop(uid, None)
            phase = "Succeeded" if code == 0 else "Failed"
            exit_code = code if code >= 0 else 128 - code
            state = {
                "terminated": {
                    "exitCode": exit_code,
                    "reason": "Completed" if code == 0 else "Error",
                    "startedAt": stamp,
                    "finishedAt": stamp,
                }
            }
        shown = {
            "name": container["name"],
            "image": container["image"],
            "imageID": container["image"],
            "ready": phase == "Running",
            "restartCount": 0,
            "state": state,
        }
        status = {
            **live.get("status", {}),
            "phase": phase,
            "startTime": at(live, "status", "startTime", default=stamp),
            "containerStatuses": [shown],
        }
        self.writes.set_status(PODS, live, status, "kubelet")

    def _launch(self, pod: Obj) -> tuple[subprocess.Popen[bytes], Path]:
        container = pod["spec"]["containers"][0]
        handle, path = tempfile.mkstemp(prefix="kube-job-", suffix=".log")
        given = {each["name"]: each.get("value", "") for each in container.get("env", [])}
        command = [*container.get("command", []), *container.get("args", [])]
        with os.fdopen(handle, "wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **given},
                cwd=container.get("workingDir"),
            )
        return process, Path(path)
