"""What pods and Deployments say of themselves, as the ports' values. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from adapters.kubernetes.objects import DIGEST, ENV, HASH, NAME, RELEASE, ROLE
from adapters.ports import ReplicaStatus

Object = Mapping[str, Any]
CANNOT_START = (
    "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
)  # fmt: skip
NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError")
LATE = "ProgressDeadlineExceeded"
LOOPS_AFTER = 2
UNSCHEDULABLE_S = 120.0
"""So long a node may take to come before a rollout stands still for it."""


def status_of(pod: Object, port: int) -> ReplicaStatus:
    """A pod as a replica."""
    meta, status = pod["metadata"], pod.get("status", {})
    labels = meta.get("labels", {})
    is_leaving = "deletionTimestamp" in meta
    phase = status.get("phase", "Pending")
    containers = status.get("containerStatuses") or []
    address = status.get("podIP", "")
    host = f"[{address}]" if ":" in address else address
    return ReplicaStatus(
        spawn_id=meta["name"],
        service=labels.get(NAME, ""),
        env=labels.get(ENV, ""),
        release_id=labels.get(RELEASE, ""),
        digest=meta.get("annotations", {}).get(DIGEST, ""),
        slot=0,
        address=f"http://{host}:{port}" if address else "",
        pid=0,
        is_ready=bool(address) and not is_leaving and _is(status, "Ready"),
        is_alive=phase not in ("Succeeded", "Failed"),
        restarts=sum(int(c.get("restartCount", 0)) for c in containers),
        end_cause=ending_of(status) or waiting_of(status),
        is_wanted=not is_leaving,
        role=labels.get(ROLE, ""),
        start_s=_start_s(pod),
    )


def _start_s(pod: Object) -> float | None:
    """Seconds from the pod's making until it was ready; None for one that is not, or began again."""
    status = pod.get("status", {})
    ready = [c for c in status.get("conditions") or () if c["type"] == "Ready" and c["status"] == "True"]
    again = any(int(c.get("restartCount", 0)) for c in status.get("containerStatuses") or ())
    made, since = pod["metadata"].get("creationTimestamp"), ready[0].get("lastTransitionTime") if ready else None
    if again or not made or not since:
        return None
    return max(0.0, (datetime.fromisoformat(since) - datetime.fromisoformat(made)).total_seconds())


def cannot_serve(deployment: Object | None, pods: Iterable[Object]) -> str | None:
    """Why a set will not come up by waiting, and by its own fault: it crashes, cannot be made into containers, or took too long."""
    pods = list(pods)
    for pod in pods:
        status = pod.get("status", {})
        for one in _containers(status):
            waiting = one.get("state", {}).get("waiting") or {}
            reason, restarts = waiting.get("reason", ""), int(one.get("restartCount", 0))
            last = ended_as(one)
            if restarts >= LOOPS_AFTER and (reason == "CrashLoopBackOff" or last.startswith("OOMKilled")):
                said = f"{pod['metadata']['name']} crashed {restarts} times"
                return f"{said} ({': '.join(filter(None, (reason, last)))})"
            if reason in CANNOT_START:
                return f"{pod['metadata']['name']}: {reason}: {waiting.get('message', '')}".rstrip(": ")
    for condition in (deployment or {}).get("status", {}).get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == LATE and not lacks(deployment, pods):
            why = [said for pod in pods if (said := waiting_of(pod.get("status", {})))]
            return f"{LATE}: {condition.get('message', '')}".rstrip(": ") + (f" ({why[0]})" if why else "")
    return None


def lacks(deployment: Object | None, pods: Iterable[Object], now: float | None = None) -> str | None:
    """What of the cluster's a set waits for: room, a quota, an admission, an image. No fault of the release's; it may yet come.

    A pod that cannot be scheduled counts once it has waited for `UNSCHEDULABLE_S`, or its Deployment is late: a node may be on its way.
    """
    conditions = (deployment or {}).get("status", {}).get("conditions") or ()
    is_late = any(c["type"] == "Progressing" and c.get("reason") == LATE for c in conditions)
    for pod in pods:
        status, name = pod.get("status", {}), pod["metadata"]["name"]
        for one in _containers(status):
            waiting = one.get("state", {}).get("waiting") or {}
            if waiting.get("reason") in NO_IMAGE:
                return f"{name}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                since = condition.get("lastTransitionTime")
                waited = _seconds_since(since, now) if since else 0.0
                if is_late or waited >= UNSCHEDULABLE_S:
                    return f"{name}: FailedScheduling ({condition.get('reason', '')}): {condition.get('message', '')}"
    for condition in conditions:
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"pods may not be made: {condition.get('message', condition.get('reason', ''))}"
    return None


def _containers(status: Object) -> Iterable[Object]:
    return (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ()))


def _seconds_since(moment: str, now: float | None) -> float:
    return (time.time() if now is None else now) - datetime.fromisoformat(moment).timestamp()


def waiting_of(status: Object) -> str:
    """What a pod waits for; "" when for nothing."""
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{condition.get('reason', 'not scheduled')}: {condition.get('message', '')}"
    for one in status.get("containerStatuses") or ():
        if reason := (one.get("state", {}).get("waiting") or {}).get("reason"):
            return str(reason)
    return ""


def ending_of(status: Object) -> str:
    """How a container of the pod ended last; "" when none has."""
    for one in status.get("containerStatuses") or ():
        if ended := ended_as(one):
            return ended
    return str(status.get("reason", "")) if status.get("phase") == "Failed" else ""


def ended_as(container: Object) -> str:
    """How this container ended last: the reason and the exit code; "" when it has not."""
    for state in (container.get("state", {}), container.get("lastState", {})):
        if ended := state.get("terminated"):
            return f"{ended.get('reason', 'ended')}, exit {ended.get('exitCode')}"
    return ""


def release_of_hash(deployments: Iterable[Object]) -> dict[str, str]:
    """pod-hash → release, of all Deployments of ours."""
    labels = (one["metadata"].get("labels", {}) for one in deployments)
    return {one[HASH]: one[RELEASE] for one in labels if HASH in one and RELEASE in one}


def _is(status: Object, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or ())
