"""What pods wrote and what befell them: the log, that of the container before where one ended, and the cluster's events of the pod."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from adapters.kubernetes.pods import status_of
from state.words import AirbossError

SHOWN = 8
"""Pods at most, the newest first."""
EVENTS = 10
CONTAINER = "server"
MOST_BYTES = 1024 * 1024
Object = dict[str, Any]


async def pod_logs(cluster: Cluster, service: str, replica: str, lines: int) -> list[Object]:
    """The last `lines` lines of each pod of the service; `replica` is the beginning of a name. Never raises: a refusal is its text."""
    try:
        found, _ = await cluster.client.list(
            cluster.path("pods"), f"{objects.ours(cluster.env)},{objects.NAME}={service}"
        )
    except AirbossError as error:
        return [_line(cluster, replica or service, f"its pods cannot be read: {error.message}")]
    pods = [pod for pod in found if pod["metadata"]["name"].startswith(replica)]
    pods.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")), reverse=True)
    return list(await asyncio.gather(*(_story(cluster, service, pod, lines) for pod in pods[:SHOWN])))


async def _story(cluster: Cluster, service: str, pod: Object, lines: int) -> Object:
    seen = status_of(pod, cluster.pods_of(service).port)
    has_before = seen.restarts > 0
    before, now, events = await asyncio.gather(
        _log(cluster, pod, lines, previous=True) if has_before else _nothing(), _log(cluster, pod, lines), _events(cluster, pod)
    )  # fmt: skip
    parts = [f"-- the container before, which ended: {seen.end_cause} --\n{before}"] if has_before else []
    parts += ["-- the container now --\n" + now if has_before else now]
    parts += [f"-- events --\n{events}"] if events else []
    state = "ready" if seen.is_ready else str(pod.get("status", {}).get("phase", "")).lower()
    made = pod["metadata"].get("creationTimestamp")
    return {
        "id": seen.spawn_id, "env": cluster.env, "release_id": seen.release_id, "state": state,
        "started_at": datetime.fromisoformat(made).timestamp() if made else None,
        "ended_at": None, "end_cause": seen.end_cause, "text": "\n".join(part.rstrip("\n") for part in parts) + "\n",
    }  # fmt: skip


async def _nothing() -> str:
    return ""


async def _log(cluster: Cluster, pod: Object, lines: int, *, previous: bool = False) -> str:
    containers = [one["name"] for one in pod["spec"]["containers"]]
    container = CONTAINER if CONTAINER in containers else containers[0]
    asked = {"tailLines": str(lines), "limitBytes": str(MOST_BYTES), "container": container}
    path = cluster.path("pods", pod["metadata"]["name"], "log")
    try:
        return await cluster.client.text(path, {**asked, **({"previous": "true"} if previous else {})})
    except AirbossError as error:
        return f"(no log: {error.message})"


async def _events(cluster: Cluster, pod: Object) -> str:
    """The newest last, `Warning BackOff ×4: …`."""
    name = pod["metadata"]["name"]
    try:
        found = await cluster.client.get(cluster.path("events"), {"fieldSelector": f"involvedObject.name={name}"})
    except AirbossError as error:
        return f"(no events: {error.message})"
    items = [one for one in (found or {}).get("items") or () if one.get("involvedObject", {}).get("name") == name]
    items.sort(key=lambda one: str(one.get("lastTimestamp") or one.get("eventTime") or ""))
    return "\n".join(_said(one) for one in items[-EVENTS:])


def _said(event: Object) -> str:
    count = int(event.get("count") or 1)
    times = f" ×{count}" if count > 1 else ""
    return f"{event.get('type', '')} {event.get('reason', '')}{times}: {event.get('message', '')}".strip()


def _line(cluster: Cluster, name: str, text: str) -> Object:
    return {
        "id": name, "env": cluster.env, "release_id": "", "state": "unknown", "started_at": None, "ended_at": None,
        "end_cause": "", "text": text + "\n",
    }  # fmt: skip
