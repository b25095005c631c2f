"""What pods and Deployments say of themselves, as the ports' values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from adapters.kubernetes.objects import DIGEST, ENV, HASH, NAME, RELEASE, ROLE
from adapters.ports import ReplicaStatus

Object = Mapping[str, Any]
CANNOT_START = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
    "CreateContainerConfigError", "CreateContainerError", "RunContainerError",
)  # fmt: skip
LOOPS_AFTER = 2


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
    """Why a set will not come up by waiting: it crashes again and again, has no image, may not be made, or took too long."""
    pods = list(pods)
    for pod in pods:
        status = pod.get("status", {})
        for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
            waiting = one.get("state", {}).get("waiting") or {}
            reason = waiting.get("reason", "")
            if reason == "CrashLoopBackOff" and int(one.get("restartCount", 0)) >= LOOPS_AFTER:
                last = ending_of(status)
                return f"{pod['metadata']['name']} crashed {one['restartCount']} times" + (f": {last}" if last else "")
            if reason in CANNOT_START:
                return f"{pod['metadata']['name']}: {reason}: {waiting.get('message', '')}".rstrip(": ")
    for condition in (deployment or {}).get("status", {}).get("conditions") or ():
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return f"pods may not be made: {condition.get('message', condition.get('reason', ''))}"
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            why = [said for pod in pods if (said := waiting_of(pod.get("status", {})))]
            return f"{condition.get('message', 'ProgressDeadlineExceeded')}" + (f" ({why[0]})" if why else "")
    return None


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
        for state in (one.get("state", {}), one.get("lastState", {})):
            if ended := state.get("terminated"):
                return f"{ended.get('reason', 'ended')}, exit {ended.get('exitCode')}"
    return str(status.get("reason", "")) if status.get("phase") == "Failed" else ""


def release_of_hash(deployments: Iterable[Object]) -> dict[str, str]:
    """pod-hash → release, of all Deployments of ours."""
    labels = (one["metadata"].get("labels", {}) for one in deployments)
    return {one[HASH]: one[RELEASE] for one in labels if HASH in one and RELEASE in one}


def _is(status: Object, kind: str) -> bool:
    return any(c["type"] == kind and c["status"] == "True" for c in status.get("conditions") or ())
