"""The scheduler and the kubelet: pods become ready at once, unless a script of the test says what goes wrong."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from kube.controllers.common import PODS, Controller, condition, is_ending, with_condition
from kube.errors import forbidden
from kube.resources import resource
from kube.selectors import has_labels
from kube.store import Store
from kube.values import Clock, Obj, at, safe_hash
from kube.writes import Writes

KUBELET = "kubelet"
NODES = resource("nodes")
GPU = "nvidia.com/gpu"


@dataclass
class Trouble:
    """What is wrong with the pods it takes."""

    kind: str
    message: str = ""
    exit_code: int = 1
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def takes(self, pod: Obj) -> bool:
        """Whether the pod is one of those meant: by image (a part of it), labels and name (a regular expression)."""
        images = [container.get("image", "") for container in at(pod, "spec", "containers", default=[])]
        return (
            (not self.image or any(self.image in image for image in images))
            and has_labels(pod, self.labels)
            and re.search(self.name, pod["metadata"].get("name", "")) is not None
        )


class Pods(Controller):
    """Schedules, starts and ends pods. Later scripts come before earlier ones; `well` ends them for the pods it takes."""

    def __init__(self, store: Store, writes: Writes, clock: Clock) -> None:
        super().__init__(store, writes, clock)
        self._troubles: list[Trouble] = []
        self._addresses: list[tuple[Trouble, str, int]] = []
        self._logs: list[tuple[Trouble, str]] = []
        self._ips = count(2)
        self.drains_by_itself = True
        """False: pods that are being deleted stay until `drained` or the end of their grace by the clock."""

    def trouble(
        self,
        kind: str,
        message: str = "",
        *,
        exit_code: int = 1,
        image: str = "",
        labels: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        """From now on something is wrong with these pods, those that run among them.

        `kind`: ImagePullBackOff, CrashLoopBackOff, OOMKilled, Unready, Unschedulable, Denied (admission, before the pod
        is there), Evicted."""
        known = ("ImagePullBackOff", "CrashLoopBackOff", "OOMKilled", "Unready", "Unschedulable", "Denied", "Evicted")
        assert kind in known, f"no such trouble: {kind}; one of {', '.join(known)}"
        self._troubles.append(Trouble(kind, message, exit_code, image, labels or {}, name))

    def well(self, *, image: str = "", labels: Mapping[str, str] | None = None, name: str = "") -> None:
        """Nothing is wrong with these pods any more."""
        self._troubles.append(Trouble("", "", 0, image, labels or {}, name))

    def address(
        self, host: str, port: int, *, image: str = "", labels: Mapping[str, str] | None = None, name: str = ""
    ) -> None:
        """These pods listen at a real address: it stands in their status and their EndpointSlices, and proxies reach it."""
        self._addresses.append((Trouble("", "", 0, image, labels or {}, name), host, port))

    def log_text(self, text: str, *, image: str = "", labels: Mapping[str, str] | None = None, name: str = "") -> None:
        """What these pods have printed."""
        self._logs.append((Trouble("", "", 0, image, labels or {}, name), text))

    def address_of(self, pod: Obj) -> tuple[str, int] | None:
        """The real address of a pod, None where none was registered."""
        return next(((host, port) for who, host, port in reversed(self._addresses) if who.takes(pod)), None)

    def log_of(self, pod: Obj) -> str:
        """What a pod has printed, by script."""
        return next((text for who, text in reversed(self._logs) if who.takes(pod)), "")

    def _wrong(self, pod: Obj) -> Trouble:
        return next((each for each in reversed(self._troubles) if each.takes(pod)), Trouble(""))

    def admit(self, pod: Obj) -> None:
        """Raise 403 where a script denies the creation of this pod, as a quota or a policy does."""
        wrong = self._wrong(pod)
        if wrong.kind == "Denied":
            # A name that stays the same from one try to the next, so that the refusal does too and the world comes to rest.
            base = pod["metadata"]["generateName"]
            name = base + safe_hash(hashlib.sha256(base.encode()).digest(), 5)
            raise forbidden(
                PODS, name, wrong.message or "exceeded quota: compute, requested: pods=1, used: pods=4, limited: pods=4"
            )

    def drained(self, name: str = "") -> None:
        """The pods being deleted have ended: they are gone."""
        for pod in self.store.all(PODS):
            if is_ending(pod) and re.search(name, pod["metadata"]["name"]):
                self.store.remove(PODS, pod)

    def reconcile(self) -> None:
        """Schedule what waits, bring every pod's status to what its script says, end what is being deleted."""
        for pod in self.store.all(PODS):
            if is_ending(pod):
                self._end(pod)
            elif at(pod, "status", "phase") in ("Succeeded", "Failed"):
                continue
            elif not at(pod, "spec", "nodeName"):
                self._schedule(pod)
            elif not any(ref["kind"] == "Job" for ref in pod["metadata"].get("ownerReferences", [])):
                self._run(pod)

    def _end(self, pod: Obj) -> None:
        over = self.clock.age_s(pod["metadata"]["deletionTimestamp"]) >= pod["metadata"]["deletionGracePeriodSeconds"]
        if (self.drains_by_itself or over) and not pod["metadata"].get("finalizers"):
            self.store.remove(PODS, pod)

    def _schedule(self, pod: Obj) -> None:
        wrong, nodes = self._wrong(pod), self.store.all(NODES)
        node = next((each for each in nodes if self._fits(pod, each)), None)
        refused = wrong.message or f"0/{len(nodes)} nodes are available: {len(nodes)} Insufficient {GPU}."
        if wrong.kind == "Unschedulable" or node is None:
            self._set(pod, {"phase": "Pending"}, {"PodScheduled": ("False", "Unschedulable", refused)})
            self.event(pod, "FailedScheduling", refused, "Warning", "default-scheduler")
            return
        placed = {**pod, "spec": {**pod["spec"], "nodeName": node["metadata"]["name"]}}
        self.writes.change(PODS, pod, placed, "kube-scheduler")

    def _fits(self, pod: Obj, node: Obj) -> bool:
        asked = _gpus(pod)
        if at(node, "spec", "unschedulable") or not asked:
            return not at(node, "spec", "unschedulable")
        name = node["metadata"]["name"]
        used = sum(
            _gpus(each)
            for each in self.store.all(PODS)
            if at(each, "spec", "nodeName") == name and at(each, "status", "phase") in ("Pending", "Running")
        )
        return used + asked <= int(at(node, "status", "allocatable", GPU, default="0"))

    def _run(self, pod: Obj) -> None:
        wrong = self._wrong(pod)
        if wrong.kind == "Evicted":
            self._set(
                pod,
                {
                    "phase": "Failed",
                    "reason": "Evicted",
                    "message": wrong.message or "The node was low on resource: memory.",
                },
                {"Ready": ("False", "PodFailed", "")},
            )
            return
        ready = not wrong.kind
        pulling = wrong.kind == "ImagePullBackOff"
        backing = self.address_of(pod)
        containers = [
            _container(each, wrong, self.clock.stamp(), at(pod, "status", "containerStatuses", n, default={}))
            for n, each in enumerate(pod["spec"]["containers"])
        ]
        ip = (
            backing[0]
            if backing
            else at(pod, "status", "podIP", default=f"10.244.{(n := next(self._ips)) // 250}.{n % 250}")
        )
        names = " ".join(each["name"] for each in containers)
        why = (
            ("True", "", "") if ready else ("False", "ContainersNotReady", f"containers with unready status: [{names}]")
        )
        status = {
            "phase": "Pending" if pulling else "Running",
            "hostIP": "10.0.0.1",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "startTime": at(pod, "status", "startTime", default=self.clock.stamp()),
            "containerStatuses": containers,
        }
        yes = ("True", "", "")
        self._set(
            pod,
            status,
            {
                "PodReadyToStartContainers": yes,
                "Initialized": yes,
                "Ready": why,
                "ContainersReady": why,
                "PodScheduled": yes,
            },
        )
        if wrong.kind in ("ImagePullBackOff", "CrashLoopBackOff", "OOMKilled"):
            self.event(
                pod,
                "Failed" if pulling else "BackOff",
                containers[0]["state"]["waiting"]["message"],
                "Warning",
                KUBELET,
            )
        elif wrong.kind == "Unready":
            self.event(
                pod,
                "Unhealthy",
                wrong.message or "Readiness probe failed: HTTP probe failed with statuscode: 503",
                "Warning",
                KUBELET,
            )

    def _set(self, pod: Obj, status: Obj, conditions: Mapping[str, tuple[str, str, str]]) -> None:
        live = self.store.get(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
        rows = at(live, "status", "conditions", default=[])
        stamp = self.clock.stamp()
        for kind, (value, reason, message) in conditions.items():
            more = {key: text for key, text in (("reason", reason), ("message", message)) if text}
            new = {"type": kind, "status": value, "lastProbeTime": None, **more}
            old = condition(live, kind)
            if {key: item for key, item in old.items() if key != "lastTransitionTime"} != new:
                rows = with_condition(rows, new, stamp)
        gpus = {"qosClass": at(live, "status", "qosClass", default="BestEffort")}
        self.writes.set_status(PODS, live, {**gpus, **status, "conditions": rows}, KUBELET)


def _gpus(pod: Obj) -> int:
    return sum(
        int(at(each, "resources", "limits", GPU, default="0")) for each in at(pod, "spec", "containers", default=[])
    )


def _container(container: Obj, wrong: Trouble, stamp: str, old: Obj) -> Obj:
    name, image = container["name"], container["image"]
    started = at(old, "state", "running", "startedAt", default=stamp)
    made = {
        "name": name,
        "image": image,
        "ready": not wrong.kind,
        "started": not wrong.kind,
        "restartCount": old.get("restartCount", 0),
        "imageID": f"docker.io/{image}",
    }
    if "lastState" in old:
        made["lastState"] = old["lastState"]
    if wrong.kind in ("", "Unready"):
        return {**made, "started": True, "state": {"running": {"startedAt": started}}}
    if wrong.kind == "ImagePullBackOff":
        waiting = {"reason": wrong.kind, "message": wrong.message or f'Back-off pulling image "{image}"'}
        return {**made, "imageID": "", "state": {"waiting": waiting}}
    killed = wrong.kind == "OOMKilled"
    ended = {"exitCode": 137 if killed else wrong.exit_code, "reason": "OOMKilled" if killed else "Error"}
    before = at(old, "lastState", "terminated", default={})
    times = {key: before.get(key, stamp) for key in ("startedAt", "finishedAt")}
    waiting = {"reason": "CrashLoopBackOff", "message": f"back-off 5m0s restarting failed container={name}"}
    made |= {
        "restartCount": max(4, made["restartCount"]),
        "lastState": {"terminated": {**ended, **times, **({"message": wrong.message} if wrong.message else {})}},
    }
    return {**made, "state": {"waiting": waiting}}
