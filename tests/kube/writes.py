"""Every write, by a client or by a controller: defaults, validation, generation, ownership of fields, the end of objects."""

from __future__ import annotations

from typing import Any

from kube.defaults import new_uid, set_defaults
from kube.errors import ApiError, already_exists, conflict, not_found
from kube.ownership import Owner, note_update, set_owners
from kube.resources import Resource, resource
from kube.store import Store
from kube.validation import check
from kube.values import Clock, Obj, at, copied, safe_name

CONTROLLER = "kube-controller-manager"
_KEPT = (
    "uid",
    "creationTimestamp",
    "name",
    "namespace",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
)


class Writes:
    """Writes to the store by the rules of a real server."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.store, self.clock = store, clock
        self.pruned: dict[str, set[str]] = {}
        """Fields that an older CRD does not know, by plural: dropped without a word wherever they stand."""

    def owner(self, which: Resource, manager: str, operation: str = "Update", subresource: str = "") -> Owner:
        """A row of managedFields for a write now."""
        return Owner(manager, operation, which.api_version, subresource, self.clock.stamp(), set())

    def create(
        self,
        which: Resource,
        namespace: str,
        body: Obj,
        manager: str = CONTROLLER,
        *,
        dry_run: bool = False,
        by_apply: bool = False,
    ) -> Obj:
        """A new object. Raises 404 without its namespace, 409 where the name is taken, 422 where it is invalid."""
        with self.store.lock:
            obj = self._new(which, namespace, body)
            meta = obj["metadata"]
            if which.namespaced and self.store.find(resource("namespaces"), "", namespace) is None:
                raise not_found(resource("namespaces"), namespace)
            if self.store.find(which, namespace, meta.get("name", "")):
                raise already_exists(which, meta["name"])
            set_defaults(which, obj)
            check(which, obj, None)
            if not by_apply:
                note_update(which, None, obj, self.owner(which, manager))
            return obj if dry_run else self.store.put(which, obj)

    def _new(self, which: Resource, namespace: str, body: Obj) -> Obj:
        obj: Obj = {"apiVersion": which.api_version, "kind": which.kind, **copied(body)}
        meta = obj["metadata"] = dict(obj.get("metadata") or {})
        if meta.get("resourceVersion"):
            raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + safe_name()
        for name in ("resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "namespace"):
            meta.pop(name, None)
        if which.namespaced:
            meta["namespace"] = namespace
        meta |= {"uid": new_uid(), "creationTimestamp": self.clock.stamp()}
        if which.generation:
            meta["generation"] = 1
        if which.status:
            obj.pop("status", None)
            obj |= {} if which.custom else {"status": {}}
        if which.kind == "Pod":
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        self._prune(which, obj)
        return obj

    def _prune(self, which: Resource, value: Any) -> None:
        unknown = self.pruned.get(which.plural, set())
        if unknown and isinstance(value, dict):
            for key in list(value):
                if key in unknown:
                    del value[key]
                else:
                    self._prune(which, value[key])
        elif unknown and isinstance(value, list):
            for item in value:
                self._prune(which, item)

    def change(
        self, which: Resource, live: Obj, body: Obj, manager: str = CONTROLLER, *, subresource: str = "", dry_run: bool = False,
        owners: list[Owner] | None = None,
    ) -> Obj:  # fmt: skip
        """Put `body` in the place of `live`. Raises 409 where it names another version, 422 where it is invalid.

        With `owners` the write is an apply, which knows who owns what afterwards."""
        with self.store.lock:
            new = self._successor(which, live, body, subresource)
            set_defaults(which, new)
            check(which, new, live)
            if which.generation and _desired(which, new) != _desired(which, live):
                new["metadata"]["generation"] = live["metadata"]["generation"] + 1
            if owners is None:
                note_update(which, live, new, self.owner(which, manager, subresource=subresource))
            else:
                set_owners(new, owners)
            if _without_version(new) == _without_version(live):
                return live
            if dry_run:
                return new
            if (
                new["metadata"].get("deletionTimestamp")
                and not new["metadata"].get("finalizers")
                and which.kind != "Pod"
            ):
                self.store.put(which, new)
                return self.store.remove(which, new)
            return self.store.put(which, new)

    def _successor(self, which: Resource, live: Obj, body: Obj, subresource: str) -> Obj:
        new: Obj = copied(body)
        meta, old = new.setdefault("metadata", {}), live["metadata"]
        if meta.get("resourceVersion") and meta["resourceVersion"] != old["resourceVersion"]:
            raise conflict(which, old["name"])
        if meta.get("uid") and meta["uid"] != old["uid"]:
            why = f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['uid']}"
            raise conflict(which, old["name"], why)
        if subresource == "status":
            new = {**copied(live), "status": new.get("status")}
            if new["status"] is None:
                del new["status"]
        else:
            for name in (*_KEPT, "managedFields"):
                meta.pop(name, None)
                if name in old:
                    meta[name] = copied(old[name])
            if which.status:
                new.pop("status", None)
                if "status" in live:
                    new["status"] = copied(live["status"])
        new["metadata"]["resourceVersion"] = old["resourceVersion"]
        new["apiVersion"], new["kind"] = which.api_version, which.kind
        self._prune(which, new)
        return new

    def set_status(self, which: Resource, live: Obj, status: Obj, manager: str = CONTROLLER) -> Obj:
        """Write the status of an object as its controller does; nothing is written where nothing changes."""
        return self.change(which, live, {**live, "status": status}, manager, subresource="status")

    def delete(self, which: Resource, live: Obj, options: Obj, *, dry_run: bool = False) -> Obj | None:
        """End an object. The object where it waits for something first (grace, finalizers), None where it is gone.

        Raises 409 where a precondition does not hold."""
        with self.store.lock:
            meta = live["metadata"]
            for key, shown in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
                wanted = at(options, "preconditions", key)
                if wanted and wanted != meta[key]:
                    where = (
                        f"the {shown} in the precondition ({wanted}) does not match the {shown} in record ({meta[key]})"
                    )
                    raise conflict(
                        which, meta["name"], f"{where}. The object might have been deleted and then recreated"
                    )
            policy = options.get("propagationPolicy") or "Background"
            finalizers = [each for each in meta.get("finalizers", []) if each not in ("orphan", "foregroundDeletion")]
            if policy in ("Foreground", "Orphan"):
                finalizers.append("foregroundDeletion" if policy == "Foreground" else "orphan")
            grace = _grace_s(which, live, options)
            if dry_run:
                return live
            if not finalizers and not grace:
                self.store.remove(which, live)
                return None
            if "deletionTimestamp" in meta and grace >= meta.get("deletionGracePeriodSeconds", 0):
                return live
            meta["deletionTimestamp"], meta["deletionGracePeriodSeconds"] = self.clock.stamp(), grace
            if finalizers:
                meta["finalizers"] = finalizers
            if which.generation:
                meta["generation"] += 1
            return self.store.put(which, live)

    def drop_finalizer(self, which: Resource, live: Obj, finalizer: str) -> None:
        """Take one finalizer away; the object ends with its last."""
        meta = {
            **live["metadata"],
            "finalizers": [each for each in live["metadata"].get("finalizers", []) if each != finalizer],
        }
        if not meta["finalizers"]:
            del meta["finalizers"]
        self.change(which, live, {**live, "metadata": meta})


def _grace_s(which: Resource, live: Obj, options: Obj) -> int:
    if (
        which.kind != "Pod"
        or at(live, "status", "phase") in ("Succeeded", "Failed")
        or not at(live, "spec", "nodeName")
    ):
        return 0
    asked = options.get("gracePeriodSeconds")
    return int(at(live, "spec", "terminationGracePeriodSeconds", default=30) if asked is None else asked)


def _desired(which: Resource, obj: Obj) -> Obj:
    if which.custom:
        return {key: value for key, value in obj.items() if key not in ("metadata", "status")}
    if which.kind == "EndpointSlice":
        return {key: obj.get(key) for key in ("endpoints", "ports")}
    return {"spec": obj.get("spec")}


def _without_version(obj: Obj) -> Obj:
    meta = {key: value for key, value in obj["metadata"].items() if key not in ("resourceVersion", "managedFields")}
    owners = [{k: v for k, v in row.items() if k != "time"} for row in obj["metadata"].get("managedFields", [])]
    return {**obj, "metadata": {**meta, "managedFields": owners}}
