"""ReplicaSet to Pods, and the end of what lost its owner."""

from __future__ import annotations

from kube.controllers.common import (
    PODS,
    REPLICA_SETS,
    Controller,
    condition,
    counts,
    is_ending,
    is_ready,
    owned,
    owner_reference,
    with_condition,
)
from kube.controllers.pods import Pods
from kube.errors import ApiError
from kube.values import Obj, at, copied, safe_name


class ReplicaSets(Controller):
    """The replicaset controller. Pods whose creation a script denies are counted as missing, with the refusal quoted."""

    scripts: Pods

    def reconcile(self) -> None:
        """Create and delete pods until every ReplicaSet has its number."""
        for replica_set in self.store.all(REPLICA_SETS):
            if is_ending(replica_set):
                continue
            pods = [
                pod
                for pod in owned(self.store, PODS, replica_set)
                if not is_ending(pod) and at(pod, "status", "phase") not in ("Failed", "Succeeded")
            ]
            refused = self._count(replica_set, pods)
            self._report(replica_set, refused)

    def _count(self, replica_set: Obj, pods: list[Obj]) -> str:
        missing = replica_set["spec"]["replicas"] - len(pods)
        for _ in range(max(0, missing)):
            try:
                self._create(replica_set)
            except ApiError as error:
                self.event(
                    replica_set, "FailedCreate", f"Error creating: {error.message}", "Warning", "replicaset-controller"
                )
                return error.message
        for pod in sorted(pods, key=_worth)[: max(0, -missing)]:
            self.writes.delete(PODS, pod, {})
            self.event(
                replica_set,
                "SuccessfulDelete",
                f"Deleted pod: {pod['metadata']['name']}",
                component="replicaset-controller",
            )
        return ""

    def _create(self, replica_set: Obj) -> None:
        template = copied(replica_set["spec"]["template"])
        name = f"{replica_set['metadata']['name']}-{safe_name()}"
        meta = {**template.get("metadata", {}), "name": name, "generateName": f"{replica_set['metadata']['name']}-"}
        pod = {"metadata": {**meta, "ownerReferences": [owner_reference(replica_set)]}, "spec": template["spec"]}
        self.scripts.admit(pod)
        self.writes.create(PODS, replica_set["metadata"]["namespace"], pod)
        self.event(replica_set, "SuccessfulCreate", f"Created pod: {name}", component="replicaset-controller")

    def _report(self, replica_set: Obj, refused: str) -> None:
        live = self.store.get(REPLICA_SETS, replica_set["metadata"]["namespace"], replica_set["metadata"]["name"])
        pods = [
            pod
            for pod in owned(self.store, PODS, live)
            if not is_ending(pod) and at(pod, "status", "phase") not in ("Failed", "Succeeded")
        ]
        ready = [pod for pod in pods if is_ready(pod)]
        need_s = live["spec"].get("minReadySeconds", 0)
        available = [
            pod
            for pod in ready
            if not need_s or self.clock.age_s(condition(pod, "Ready")["lastTransitionTime"]) >= need_s
        ]
        rows = [row for row in at(live, "status", "conditions", default=[]) if row["type"] != "ReplicaFailure"]
        if refused:
            new = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": refused}
            rows = with_condition(at(live, "status", "conditions", default=[]), new, self.clock.stamp())
        status = {
            "replicas": len(pods),
            "observedGeneration": live["metadata"]["generation"],
            **counts(fullyLabeledReplicas=len(pods), readyReplicas=len(ready), availableReplicas=len(available)),
            **({"conditions": rows} if rows else {}),
        }
        self.writes.set_status(REPLICA_SETS, live, status)


def _worth(pod: Obj) -> tuple[bool, int]:
    """Pods that are not ready go first, then the youngest."""
    return is_ready(pod), -int(pod["metadata"].get("resourceVersion", 0))


class Garbage(Controller):
    """The garbage collector: dependents follow their owner, or lose it, as the deletion asked."""

    def reconcile(self) -> None:
        """One pass over every object that has an owner or a deletion to finish."""
        everything = list(self.store.everything())
        there = {obj["metadata"]["uid"] for _, obj in everything}
        for which, obj in everything:
            refs = obj["metadata"].get("ownerReferences", [])
            if refs and not any(ref["uid"] in there for ref in refs) and not is_ending(obj):
                live = self.store.find(which, obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
                if live:
                    self.writes.delete(which, live, {})
        for which, obj in everything:
            finalizers = obj["metadata"].get("finalizers", [])
            if not is_ending(obj) or not {"orphan", "foregroundDeletion"} & set(finalizers):
                continue
            uid = obj["metadata"]["uid"]
            mine = [
                (w, o)
                for w, o in self.store.everything()
                if any(ref["uid"] == uid for ref in o["metadata"].get("ownerReferences", []))
            ]
            if "orphan" in finalizers:
                for w, o in mine:
                    refs = [ref for ref in o["metadata"]["ownerReferences"] if ref["uid"] != uid]
                    self.writes.change(w, o, {**o, "metadata": {**o["metadata"], "ownerReferences": refs}})
                self.writes.drop_finalizer(which, obj, "orphan")
            elif not mine:
                self.writes.drop_finalizer(which, obj, "foregroundDeletion")
            for w, o in mine if "foregroundDeletion" in finalizers else []:
                if not is_ending(o):
                    self.writes.delete(w, o, {"propagationPolicy": "Foreground"} if w is REPLICA_SETS else {})
