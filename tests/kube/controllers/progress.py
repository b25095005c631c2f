"""The status of a Deployment: its counts, and whether it is available, progressing, complete or out of time."""

from __future__ import annotations

import json

from kube.controllers.common import condition, counts, with_condition
from kube.values import Clock, Obj, at


def _sum(sets: list[Obj], name: str) -> int:
    return sum(int(at(each, "status", name, default=0)) for each in sets)


def status_of(deployment: Obj, sets: list[Obj], new: Obj | None, unavailable: int, clock: Clock) -> Obj:
    """The status as the deployment controller would write it now."""
    old, wanted = deployment.get("status", {}), int(deployment["spec"]["replicas"])
    total, available = _sum(sets, "replicas"), _sum(sets, "availableReplicas")
    made = {
        "observedGeneration": deployment["metadata"]["generation"],
        **counts(
            replicas=total,
            updatedReplicas=_sum([new] if new else [], "replicas"),
            readyReplicas=_sum(sets, "readyReplicas"),
            availableReplicas=available,
            unavailableReplicas=max(0, sum(each["spec"]["replicas"] for each in sets) - available),
        ),
    }
    enough = available >= wanted - unavailable
    rows = at(old, "conditions", default=[])
    stamp = clock.stamp()
    word, text = ("Available", "has") if enough else ("Unavailable", "does not have")
    said = f"Deployment {text} minimum availability."
    rows = _told(
        rows, {"type": "Available", "status": str(enough), "reason": f"MinimumReplicas{word}", "message": said}, stamp
    )
    if (progress := _progress(deployment, made, sets, new, clock)) is not None:
        refresh = bool(progress.pop("moved", False))
        rows = _told(rows, progress, stamp, refresh=refresh)
    failing = [row for each in sets if (row := condition(each, "ReplicaFailure"))]
    if failing:
        keep = {key: failing[0][key] for key in ("type", "status", "reason", "message")}
        rows = _told(rows, keep, stamp)
    else:
        rows = [row for row in rows if row["type"] != "ReplicaFailure"]
    return {**made, "conditions": rows}


def _told(rows: list[Obj], wanted: Obj, stamp: str, *, refresh: bool = False) -> list[Obj]:
    old = next((row for row in rows if row["type"] == wanted["type"]), {})
    same = (old.get("status"), old.get("reason"), old.get("message")) == (
        wanted["status"],
        wanted["reason"],
        wanted["message"],
    )
    if same and not refresh:
        return rows
    return with_condition(rows, {**wanted, "lastUpdateTime": stamp}, stamp)


def _progress(deployment: Obj, made: Obj, sets: list[Obj], new: Obj | None, clock: Clock) -> Obj | None:
    """The Progressing condition; None where it stays as it is."""
    old, now = deployment.get("status", {}), condition(deployment, "Progressing")
    name = json.dumps(new["metadata"]["name"] if new else deployment["metadata"]["name"])
    thing = f"ReplicaSet {name}" if new else f"Deployment {name}"
    if deployment["spec"].get("paused"):
        return _row("Unknown", "DeploymentPaused", "Deployment is paused")
    if now.get("reason") == "DeploymentPaused":
        return _row("Unknown", "DeploymentResumed", "Deployment is resumed")
    wanted = int(deployment["spec"]["replicas"])
    whole = all(made.get(key, 0) == wanted for key in ("updatedReplicas", "replicas", "availableReplicas"))
    if whole and new:
        return _row("True", "NewReplicaSetAvailable", f"{thing} has successfully progressed.")
    if now.get("reason") == "NewReplicaSetAvailable" and made.get("replicas") == made.get("updatedReplicas"):
        return None
    grew = any(made.get(key, 0) > old.get(key, 0) for key in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    shrank = made.get("replicas", 0) - made.get("updatedReplicas", 0) < old.get("replicas", 0) - old.get(
        "updatedReplicas", 0
    )
    if grew or shrank:
        return {**_row("True", "ReplicaSetUpdated", f"{thing} is progressing."), "moved": True}
    if now.get("reason") == "ProgressDeadlineExceeded" or not now:
        return None
    if (
        now.get("reason") != "NewReplicaSetAvailable"
        and clock.age_s(now["lastUpdateTime"]) > deployment["spec"]["progressDeadlineSeconds"]
    ):
        return _row("False", "ProgressDeadlineExceeded", f"{thing} has timed out progressing.")
    return None


def _row(status: str, reason: str, message: str) -> Obj:
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}
