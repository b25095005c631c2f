"""What controllers share: owners, conditions, events."""

from __future__ import annotations

from kube.resources import Resource, resource
from kube.store import Store
from kube.values import Clock, Obj, at, safe_name
from kube.writes import Writes

PODS, REPLICA_SETS = resource("pods"), resource("replicasets")


class Controller:
    """Something that reconciles. `reconcile` does one pass; nothing written means nothing left to do."""

    def __init__(self, store: Store, writes: Writes, clock: Clock) -> None:
        self.store, self.writes, self.clock = store, writes, clock

    def reconcile(self) -> None:
        """One pass over what this controller looks after."""
        raise NotImplementedError

    def event(self, obj: Obj, reason: str, message: str, kind: str = "Normal", component: str = "") -> None:
        """Record an event about an object; one told again only counts up."""
        which, namespace = resource("events"), obj["metadata"].get("namespace", "default")
        about = {
            "kind": obj["kind"],
            "namespace": namespace,
            "name": obj["metadata"]["name"],
            "uid": obj["metadata"]["uid"],
            "apiVersion": obj["apiVersion"],
        }
        for old in self.store.all(which, namespace):
            if (old["involvedObject"]["uid"], old["reason"], old["message"]) == (about["uid"], reason, message):
                return
        stamp = self.clock.stamp()
        self.writes.create(which, namespace, {
            "metadata": {"name": f"{about['name']}.{safe_name(16)}"},
            "involvedObject": about, "reason": reason, "message": message, "type": kind, "count": 1,
            "firstTimestamp": stamp, "lastTimestamp": stamp,
            "source": {"component": component or "deployment-controller"}, "reportingComponent": component,
        })  # fmt: skip


def owner_reference(owner: Obj) -> Obj:
    """The reference that makes `owner` the controller of what it makes."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned(store: Store, which: Resource, owner: Obj) -> list[Obj]:
    """The objects that `owner` controls, oldest first."""
    uid = owner["metadata"]["uid"]
    found = [
        obj
        for obj in store.all(which, owner["metadata"]["namespace"])
        if any(ref["uid"] == uid and ref.get("controller") for ref in obj["metadata"].get("ownerReferences", []))
    ]
    return sorted(
        found, key=lambda obj: (obj["metadata"]["creationTimestamp"], int(obj["metadata"]["resourceVersion"]))
    )


def is_ending(obj: Obj) -> bool:
    """Whether the object is marked for deletion."""
    return "deletionTimestamp" in obj["metadata"]


def condition(obj: Obj, kind: str) -> Obj:
    """The condition of a type; empty where there is none."""
    return next((each for each in at(obj, "status", "conditions", default=[]) if each["type"] == kind), {})


def is_ready(pod: Obj) -> bool:
    """Whether a pod says that it is ready."""
    return bool(condition(pod, "Ready").get("status") == "True")


def with_condition(conditions: list[Obj], new: Obj, stamp: str) -> list[Obj]:
    """The conditions with this one in its place; the time of transition moves with the status alone."""
    old = next((each for each in conditions if each["type"] == new["type"]), {})
    same = old.get("status") == new["status"]
    moved = old.get("lastTransitionTime", stamp) if same else stamp
    made = {**new, "lastTransitionTime": moved}
    return [made if each is old else each for each in conditions] + ([] if old else [made])


def counts(**numbers: int) -> Obj:
    """Counts as a status holds them: a zero is left out, as Go leaves it out."""
    return {name: number for name, number in numbers.items() if number}
