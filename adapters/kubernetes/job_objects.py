"""A stage's work as a Job, and what the cluster says of it. Pure."""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.executing import Work
from adapters.kubernetes.objects import AUTHOR, MANAGED_BY, merged
from adapters.kubernetes.pods import CANNOT_START, waiting_of
from state.job_config import JobPods

Object = dict[str, Any]
RUN, STAGE, KEY, PLACE, TAKEN = (
    "airboss.dev/run", "airboss.dev/stage", "airboss.dev/stage-key", "airboss.dev/workspace", "airboss.dev/taken"
)  # fmt: skip
POD_ROOT = "/airboss-work"
"""Where a stage works when its files come from an object store."""
STAGE_CONTAINER, FETCH, PUT = "stage", "fetch", "put"


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a Job ended; `failure` is "" when it did well."""

    failure: str = ""
    hint: str = ""


def job_name(work: Work, place: str) -> str:
    """One name an attempt: asking for it twice finds the first."""
    text = re.sub(r"[^a-z0-9-]+", "-", f"airboss-{work.run_id}-{work.stage}".lower())[:44].strip("-")
    tail = hashlib.sha256(f"{place}\0{work.run_id}\0{work.stage}\0{work.key}".encode()).hexdigest()[:8]
    return f"{text}-{work.attempt}-{tail}"


def labels_of(work: Work, place: str) -> dict[str, str]:
    """On the Job and its pods. `place` tells workspaces apart."""
    return {
        MANAGED_BY: "airboss", PLACE: place, RUN: work.run_id, STAGE: re.sub(r"[^A-Za-z0-9_.-]", "-", work.stage)[:60].strip("-_."),
        KEY: work.key[:40],
    }  # fmt: skip


def job(work: Work, pods: JobPods, place: str, author: str, carry: str, user: tuple[int, int]) -> Object:
    """The Job. Its deadline is the stage's; tries are the engine's matter, but an eviction is not a failure."""
    name, labels = job_name(work, place), labels_of(work, place)
    pod: Object = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": pods.service_account is not None,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **_user(pods, user)},
        **({"serviceAccountName": pods.service_account} if pods.service_account else {}),
        **(_on_volume(work, pods) if pods.volume else _by_store(work, pods, name, carry)),
    }
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": pods.namespace, "labels": labels, "annotations": {AUTHOR: author}},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": max(1, math.ceil(work.timeout_s)),
            "ttlSecondsAfterFinished": math.ceil(pods.keep),
            "podFailurePolicy": {
                "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
            },
            "template": {"metadata": {"labels": labels}, "spec": merged(pod, pods.pod)},
        },
    }  # fmt: skip


def _user(pods: JobPods, user: tuple[int, int]) -> Object:
    """On a shared volume files are the engine's user's; elsewhere the image says who it runs as, and not as root."""
    if pods.volume and user[0]:
        return {"runAsNonRoot": True, "runAsUser": user[0], "runAsGroup": user[1], "fsGroup": user[1]}
    return {} if pods.volume else {"runAsNonRoot": True}


def _on_volume(work: Work, pods: JobPods) -> Object:
    root = str(work.root)
    mount = {"name": "workspace", "mountPath": root, **({"subPath": pods.volume_path} if pods.volume_path else {})}
    return {
        "volumes": [{"name": "workspace", "persistentVolumeClaim": {"claimName": pods.volume}}],
        "containers": [_stage(work, pods, root, mount)],
    }


def _by_store(work: Work, pods: JobPods, name: str, carry: str) -> Object:
    """Fetch, run, put, one after the other; the middle one is the user's image and needs nothing of ours."""
    mount = {"name": "workspace", "mountPath": POD_ROOT}
    helper = pods.helper or pods.image
    put = [*work.gives, "--", *work.may_give]
    return {
        "volumes": [{"name": "workspace", "emptyDir": {}}],
        "initContainers": [
            _helper(FETCH, helper, pods, mount, carry, "get", f"{name}-in", []),
            _stage(work, pods, POD_ROOT, mount),
        ],
        "containers": [_helper(PUT, helper, pods, mount, carry, "put", f"{name}-out", put)],
    }


def _stage(work: Work, pods: JobPods, root: str, mount: Object) -> Object:
    gpu = {pods.gpu_resource: str(pods.gpu)} if pods.gpu else {}
    cwd = str(Path(root) / work.cwd)
    env = dict(work.env) if pods.volume else {**work.env, "AIRBOSS_PROGRESS": "/dev/null"}  # nobody could read it there
    makes = sorted({str(Path(path).parent) for path in work.gives} - {"."})
    lines = [f"mkdir -p {shlex.quote(str(Path(root) / path))}" for path in makes]
    lines += [
        f"mkdir -p {shlex.quote(cwd)} && cd {shlex.quote(cwd)}",
        *(f"/bin/sh -c {shlex.quote(c)}" for c in work.commands),
    ]
    made = {
        "name": STAGE_CONTAINER, "image": pods.image, "command": ["/bin/sh", "-ec"], "args": ["\n".join(lines)],
        "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        "resources": {"requests": {**pods.requests, **gpu}, "limits": {**pods.limits, **gpu}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [mount],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }  # fmt: skip
    return merged(made, pods.container)


def _helper(
    name: str, image: str, pods: JobPods, mount: Object, carry: str, verb: str, work: str, rest: list[str]
) -> Object:
    made = {
        "name": name, "image": image, "command": ["python3", "-c", carry],
        "args": [verb, POD_ROOT, str(pods.store), work, *rest],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [mount],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }  # fmt: skip
    reaches = {key: value for key, value in pods.container.items() if key in ("env", "envFrom", "volumeMounts")}
    return merged(made, reaches)


def end_of(found: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], wanted: JobPods) -> JobEnd | None:
    """How the Job ended; None while it goes on. A pod that cannot start by waiting ends it too."""
    pods = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
    conditions = {c["type"]: c for c in found.get("status", {}).get("conditions") or () if c["status"] == "True"}
    if "Complete" in conditions:
        return JobEnd()
    if "Failed" in conditions:
        told = [text for pod in reversed(pods) if (text := failed_container(pod, wanted))]
        job_said = f"{conditions['Failed'].get('reason', '')}: {conditions['Failed'].get('message', '')}".strip(": ")
        return JobEnd(told[0] if told else f"its Job failed: {job_said}", "its log has what it said last")
    for pod in pods:
        for one in _statuses(pod):
            waiting = one.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in CANNOT_START and waiting["reason"] != "ErrImagePull":
                said = f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
                return JobEnd(f"its pod cannot start: {said}", "the cluster's own words; is the image right?")
    return None


def failed_container(pod: Mapping[str, Any], wanted: JobPods) -> str:
    """What ended a failed pod: which container, with which code, by what; "" when nothing is known."""
    status = pod.get("status", {})
    for one in _statuses(pod):
        ended = one.get("state", {}).get("terminated")
        if not ended or not int(ended.get("exitCode", 0)):
            continue
        code, reason = int(ended["exitCode"]), str(ended.get("reason", ""))
        if one["name"] != STAGE_CONTAINER:
            doing = "fetching its inputs" if one["name"] == FETCH else "putting its outs"
            last = str(ended.get("message", "")).strip().splitlines()[-1:]
            return f"{doing} ended with {code}" + (f": {last[0]}" if last else "")
        if reason == "OOMKilled":
            limit = wanted.limits.get("memory", "its node has")
            return f"the command was OOMKilled (exit {code}): it took more memory than {limit}"
        if code > 128 and code != 255:
            return f"the command ended with {code}: killed by signal {code - 128}"
        return f"the command ended with {code}"
    if status.get("reason") or status.get("message"):
        return f"its pod was {status.get('reason', 'ended')}: {status.get('message', '')}".rstrip(": ")
    return ""


def waits_for(pods: Iterable[Mapping[str, Any]]) -> str:
    """What a Job's newest pod waits for; "" when it runs."""
    newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), default=None)
    return waiting_of(newest.get("status", {})) if newest else ""


def _statuses(pod: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
