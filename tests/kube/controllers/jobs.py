"""Jobs: each pod ends with the exit code a test scripted, or that of its command, really run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
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
        self._exits: dict[str, list[Any]] = {}
        self._running: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
        self._logs: dict[tuple[str, str], str] = {}
        self._done: dict[str, list[int]] = {}
        self._disks: dict[str, str] = {}

    def exits(self, job: str, *ends: tuple[int, str] | tuple[int, str, str]) -> None:
        """The (exit code, log, reason such as "OOMKilled") of the job's pods in their order, for the pod's last container or, where the
        code is not 0, its last init container. The last holds for all after it, none means still running.
        """
        self._exits[job] = list(ends)

    def log_of(self, pod: Obj, container: str = "") -> tuple[str, bool] | None:
        """(what a job's pod printed so far, whether it has ended); None for a pod of no job."""
        uid, wanted = pod["metadata"]["uid"], container or str(pod["spec"]["containers"][-1]["name"])
        names = [one["name"] for one in (*at(pod, "spec", "initContainers", default=[]), *pod["spec"]["containers"])]
        if uid in self._running and wanted in names and names.index(wanted) == len(self._done[uid]):
            return self._running[uid][1].read_text(errors="replace"), False
        return (self._logs[uid, wanted], True) if (uid, wanted) in self._logs else None

    def stop(self) -> None:
        """End the commands that still run."""
        for process, _ in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for disk in self._disks.values():
            shutil.rmtree(disk, ignore_errors=True)

    def reconcile(self) -> None:
        """One step of every job that has not ended."""
        self._sweep()
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
        uid, name = pod["metadata"]["uid"], job["metadata"]["name"]
        containers = [*at(pod, "spec", "initContainers", default=[]), *pod["spec"]["containers"]]
        ends = self._exits.get(name, [] if self.runs_commands else [(0, "")])
        done = self._done.setdefault(uid, [])
        code, reason = None, ""
        if self.runs_commands and name not in self._exits:
            process, path = self._running.get(uid) or self._launch(pod, containers[len(done)])
            self._running[uid] = process, path
            code, log = process.poll(), path.read_text(errors="replace")
            self._logs[uid, containers[len(done)]["name"]] = log
        elif ends:
            code, log, *reasons = ends.pop(0) if len(ends) > 1 else ends[0]
            reason = reasons[0] if reasons else ""
            self._logs[uid, containers[-1]["name"]] = log
            inits = len(containers) - len(pod["spec"]["containers"])
            done += [0] * (len(containers) - 1 if code == 0 else max(0, inits - 1))
        live = self.store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        if code is not None:
            self._running.pop(uid, None)
            done.append(128 - code if code < 0 else code)
        phase = "Running" if not done or (done[-1] == 0 and len(done) < len(containers)) else "Succeeded"
        phase = "Failed" if done and done[-1] else phase
        shown = [self._shown(one, done, place, phase, reason) for place, one in enumerate(containers)]
        inits = len(containers) - len(pod["spec"]["containers"])
        status = {
            **live.get("status", {}),
            "phase": phase,
            "startTime": at(live, "status", "startTime", default=self.clock.stamp()),
            **({"initContainerStatuses": shown[:inits]} if inits else {}),
            "containerStatuses": shown[inits:],
        }
        self.writes.set_status(PODS, live, status, "kubelet")

    def _shown(self, container: Obj, done: list[int], place: int, phase: str, reason: str) -> Obj:
        stamp = self.clock.stamp()
        state: Obj = {"waiting": {"reason": "PodInitializing"}}
        if place < len(done):
            why = reason or ("Error" if done[place] else "Completed")
            state = {"terminated": {"exitCode": done[place], "reason": why, "startedAt": stamp, "finishedAt": stamp}}
        elif place == len(done) and phase == "Running":
            state = {"running": {"startedAt": stamp}}
        return {
            "name": container["name"], "image": container["image"], "imageID": container["image"],
            "ready": "running" in state, "restartCount": 0, "state": state,
        }  # fmt: skip

    def _launch(self, pod: Obj, container: Obj) -> tuple[subprocess.Popen[bytes], Path]:
        handle, path = tempfile.mkstemp(prefix="kube-job-", suffix=".log")
        empty = {one["name"] for one in at(pod, "spec", "volumes", default=[]) if "emptyDir" in one}
        disk = self._disks.setdefault(pod["metadata"]["uid"], tempfile.mkdtemp(prefix="kube-disk-"))
        mounted = [m["mountPath"] for m in container.get("volumeMounts", []) if m["name"] in empty]

        def inside(text: str) -> str:
            for mount in mounted:
                text = text.replace(mount, f"{disk}{mount}")
            return text

        for mount in mounted:
            os.makedirs(f"{disk}{mount}", exist_ok=True)
        given = {each["name"]: inside(each.get("value", "")) for each in container.get("env", [])}
        command = [inside(word) for word in (*container.get("command", []), *container.get("args", []))]
        with os.fdopen(handle, "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **given},
                cwd=container.get("workingDir"), start_new_session=True,
            )  # fmt: skip
        return process, Path(path)

    def _sweep(self) -> None:
        """A pod that is deleted takes its processes along."""
        here = {pod["metadata"]["uid"] for pod in self.store.all(PODS) if not is_ending(pod)}
        for uid in [uid for uid in self._running if uid not in here]:
            process, _ = self._running.pop(uid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
