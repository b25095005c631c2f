"""Deployment to ReplicaSets: rolling by maxSurge and maxUnavailable, revisions, conditions, the deadline of progress."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress

from kube.controllers.common import (
    PODS,
    REPLICA_SETS,
    Controller,
    condition,
    is_ending,
    owned,
    owner_reference,
    with_condition,
)
from kube.controllers.progress import status_of
from kube.errors import ApiError
from kube.resources import resource
from kube.values import Obj, at, copied, safe_hash

DEPLOYMENTS = resource("deployments")
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"


class Deployments(Controller):
    """The deployment controller."""

    def reconcile(self) -> None:
        """Move every Deployment one step."""
        for deployment in self.store.all(DEPLOYMENTS):
            if not is_ending(deployment):
                self._step(deployment)

    def _step(self, deployment: Obj) -> None:
        sets = owned(self.store, REPLICA_SETS, deployment)
        new = next((each for each in sets if same_template(each, deployment)), None)
        before = [each for each in sets if each is not new]
        if deployment["spec"].get("paused"):
            self._scale_paused(deployment, sets)
        elif at(deployment, "spec", "strategy", "type") == "Recreate" and any(
            each["spec"]["replicas"] or self._pods(each) for each in before
        ):
            for each in before:
                self._scale(each, 0)
        elif new is None:
            self._create(deployment, before)
        else:
            new = self._revised(deployment, new, before)
            if not self._roll(deployment, new, before):
                self._clean_up(deployment, before)
        self._report(deployment["metadata"]["namespace"], deployment["metadata"]["name"])

    def _pods(self, replica_set: Obj) -> list[Obj]:
        return owned(self.store, PODS, replica_set)

    def _create(self, deployment: Obj, before: list[Obj]) -> None:
        template = copied(deployment["spec"]["template"])
        digest = hashlib.sha256(json.dumps([deployment["metadata"]["uid"], template], sort_keys=True).encode()).digest()
        name = safe_hash(digest)
        labels = {**at(template, "metadata", "labels", default={}), HASH: name}
        template["metadata"]["labels"] = labels
        wanted, surge, _ = limits(deployment)
        running = sum(each["spec"]["replicas"] for each in before)
        rolling = at(deployment, "spec", "strategy", "type") == "RollingUpdate"
        replicas = max(0, min(wanted, wanted + surge - running)) if rolling else wanted
        selector = copied(deployment["spec"]["selector"])
        selector["matchLabels"] = {**selector.get("matchLabels", {}), HASH: name}
        made = {
            "metadata": {
                "name": f"{deployment['metadata']['name']}-{name}",
                "labels": labels,
                "annotations": self._annotations(deployment, str(_last_revision(before) + 1)),
                "ownerReferences": [owner_reference(deployment)],
            },
            "spec": {"replicas": replicas, "selector": selector, "template": template},
        }
        if "minReadySeconds" in deployment["spec"]:
            made["spec"]["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
        with suppress(ApiError):
            self.writes.create(REPLICA_SETS, deployment["metadata"]["namespace"], made)
            said = f"Created new replica set {json.dumps(made['metadata']['name'])}"
            self._set_condition(deployment, _progress("True", "NewReplicaSetCreated", said))
            self.event(
                deployment,
                "ScalingReplicaSet",
                f"Scaled up replica set {made['metadata']['name']} from 0 to {replicas}",
            )

    def _annotations(self, deployment: Obj, revision: str) -> Obj:
        wanted, surge, _ = limits(deployment)
        own = {
            key: value
            for key, value in at(deployment, "metadata", "annotations", default={}).items()
            if "last-applied" not in key
        }
        counted = {
            "deployment.kubernetes.io/desired-replicas": str(wanted),
            "deployment.kubernetes.io/max-replicas": str(wanted + surge),
        }
        return {**own, **counted, REVISION: revision}

    def _revised(self, deployment: Obj, new: Obj, before: list[Obj]) -> Obj:
        """The new ReplicaSet with the highest revision, and the Deployment with the same: so a way back counts up."""
        mine, others = _revision(new), _last_revision(before)
        revision = str(mine if mine > others else others + 1)
        annotations = {**at(new, "metadata", "annotations", default={}), **self._annotations(deployment, revision)}
        new = self.writes.change(
            REPLICA_SETS, new, {**new, "metadata": {**new["metadata"], "annotations": annotations}}
        )
        live = self.store.get(DEPLOYMENTS, deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        own = {**at(live, "metadata", "annotations", default={}), REVISION: revision}
        live = self.writes.change(DEPLOYMENTS, live, {**live, "metadata": {**live["metadata"], "annotations": own}})
        if not condition(live, "Progressing"):
            self._set_condition(
                live,
                _progress("True", "FoundNewReplicaSet", f"Found new replica set {json.dumps(new['metadata']['name'])}"),
            )
        return new

    def _roll(self, deployment: Obj, new: Obj, before: list[Obj]) -> bool:
        """One step up of the new, else one step down of the old; False where there is nothing to do."""
        wanted, surge, unavailable = limits(deployment)
        size = new["spec"]["replicas"]
        total = size + sum(each["spec"]["replicas"] for each in before)
        goal = wanted if size > wanted else min(wanted, size + max(0, wanted + surge - total))
        if at(deployment, "spec", "strategy", "type") == "Recreate":
            goal = wanted
        if goal != size:
            self._scale(new, goal, deployment)
            return True
        spare = total - (wanted - unavailable) - (size - at(new, "status", "availableReplicas", default=0))
        moved = False
        for each in before:
            broken = each["spec"]["replicas"] - at(each, "status", "availableReplicas", default=0)
            if (drop := min(broken, spare)) > 0:
                self._scale(each, each["spec"]["replicas"] - drop, deployment)
                each["spec"]["replicas"] -= drop
                spare, moved = spare - drop, True
        if spare <= 0:
            return moved
        extra = sum(at(each, "status", "availableReplicas", default=0) for each in [new, *before]) - (
            wanted - unavailable
        )
        for each in before:
            if (drop := min(each["spec"]["replicas"], extra)) > 0:
                self._scale(each, each["spec"]["replicas"] - drop, deployment)
                extra, moved = extra - drop, True
        return moved

    def _scale_paused(self, deployment: Obj, sets: list[Obj]) -> None:
        active = [each for each in sets if each["spec"]["replicas"]] or sets[-1:]
        difference = deployment["spec"]["replicas"] - sum(each["spec"]["replicas"] for each in active)
        if active and difference and (len(active) == 1 or difference < 0 or self._was_scaled(deployment, active)):
            largest = max(active, key=lambda each: int(each["spec"]["replicas"]))
            if self._was_scaled(deployment, active):
                self._scale(largest, max(0, largest["spec"]["replicas"] + difference), deployment)

    def _was_scaled(self, deployment: Obj, active: list[Obj]) -> bool:
        wanted = str(deployment["spec"]["replicas"])
        return any(
            at(each, "metadata", "annotations", "deployment.kubernetes.io/desired-replicas") != wanted
            for each in active
        )

    def _scale(self, replica_set: Obj, replicas: int, deployment: Obj | None = None) -> None:
        was = replica_set["spec"]["replicas"]
        if was == replicas:
            return
        live = self.store.get(REPLICA_SETS, replica_set["metadata"]["namespace"], replica_set["metadata"]["name"])
        meta = copied(live["metadata"])
        if deployment:
            meta.setdefault("annotations", {})["deployment.kubernetes.io/desired-replicas"] = str(
                deployment["spec"]["replicas"]
            )
        self.writes.change(
            REPLICA_SETS, live, {**live, "metadata": meta, "spec": {**live["spec"], "replicas": replicas}}
        )
        if deployment:
            way = "up" if replicas > was else "down"
            self.event(
                deployment,
                "ScalingReplicaSet",
                f"Scaled {way} replica set {live['metadata']['name']} from {was} to {replicas}",
            )

    def _clean_up(self, deployment: Obj, before: list[Obj]) -> None:
        idle = [
            each
            for each in sorted(before, key=_revision)
            if not each["spec"]["replicas"] and not at(each, "status", "replicas", default=0)
        ]
        for each in idle[: max(0, len(idle) - deployment["spec"]["revisionHistoryLimit"])]:
            self.writes.delete(REPLICA_SETS, each, {})

    def _set_condition(self, deployment: Obj, wanted: Obj) -> None:
        live = self.store.get(DEPLOYMENTS, deployment["metadata"]["namespace"], deployment["metadata"]["name"])
        stamp = self.clock.stamp()
        conditions = with_condition(
            at(live, "status", "conditions", default=[]), {**wanted, "lastUpdateTime": stamp}, stamp
        )
        self.writes.set_status(DEPLOYMENTS, live, {**live.get("status", {}), "conditions": conditions})

    def _report(self, namespace: str, name: str) -> None:
        live = self.store.get(DEPLOYMENTS, namespace, name)
        sets = owned(self.store, REPLICA_SETS, live)
        new = next((each for each in sets if same_template(each, live)), None)
        self.writes.set_status(DEPLOYMENTS, live, status_of(live, sets, new, limits(live)[2], self.clock))


def same_template(replica_set: Obj, deployment: Obj) -> bool:
    """Whether the ReplicaSet is that of the Deployment's template as it is now."""
    template = copied(replica_set["spec"]["template"])
    at(template, "metadata", "labels", default={}).pop(HASH, None)
    return bool(template == deployment["spec"]["template"])


def limits(deployment: Obj) -> tuple[int, int, int]:
    """(replicas, how many more may be there, how many may be missing) while it rolls."""
    wanted = int(deployment["spec"]["replicas"])
    rolling = at(deployment, "spec", "strategy", "rollingUpdate", default={})
    surge, missing = (
        _share(rolling.get("maxSurge", 0), wanted, math.ceil),
        _share(rolling.get("maxUnavailable", 0), wanted, math.floor),
    )
    if not surge and not missing:
        missing = 1
    return wanted, surge, min(missing, wanted)


def _share(value: int | str, wanted: int, rounded: object) -> int:
    if isinstance(value, str) and value.endswith("%"):
        return int(rounded(wanted * int(value[:-1]) / 100))  # type: ignore[operator]
    return int(value)


def _revision(replica_set: Obj) -> int:
    return int(at(replica_set, "metadata", "annotations", REVISION, default=0))


def _last_revision(sets: list[Obj]) -> int:
    return max(map(_revision, sets), default=0)


def _progress(status: str, reason: str, message: str) -> Obj:
    return {"type": "Progressing", "status": status, "reason": reason, "message": message}
