"""The verbs: each takes a target and returns a status code and a body, or raises the refusal."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from kube import errors
from kube.apply import applied
from kube.ownership import owners_of
from kube.patches import json_patch, merge_patch, strategic_merge
from kube.requests import Target, dry_run_of, flag
from kube.resources import resource
from kube.selectors import field_test, label_test, matches
from kube.store import Store
from kube.values import Obj, at
from kube.writes import Writes

Query = Mapping[str, str]
Answer = tuple[int, Obj]


class Api:
    """Reads and writes as HTTP clients ask for them."""

    def __init__(self, store: Store, writes: Writes) -> None:
        self._store, self._writes = store, writes
        self._pages: dict[str, tuple[int, list[Obj]]] = {}

    def read(self, target: Target) -> Answer:
        """GET of one object, or of its scale."""
        obj = self._store.get(target.which, target.namespace, target.name)
        return 200, _scale_of(target, obj) if target.subresource == "scale" else obj

    def list(self, target: Target, query: Query) -> Answer:
        """GET of a collection, a page at a time where `limit` asks for it."""
        with self._store.lock:
            version, found = self._store.version, self._selected(target, query)
            if query.get("continue"):
                if query["continue"] not in self._pages:
                    raise errors.bad_request("continue key is not valid: encountered a token this server never gave")
                version, found = self._pages[query["continue"]]
                if version < self._store.forgotten:
                    raise errors.expired(
                        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
                        "without the continue parameter, or use the continue token in this response to retrieve the remainder of the results."
                    )
            elif int(query.get("resourceVersion") or 0) > version:
                raise errors.ApiError(
                    504, "Timeout", f"Too large resource version: {query['resourceVersion']}, current: {version}"
                )
            meta: Obj = {"resourceVersion": str(version)}
            limit = int(query.get("limit") or 0)
            if limit and len(found) > limit:
                token = secrets.token_hex(8)
                self._pages[token] = (version, found[limit:])
                meta |= {"continue": token, "remainingItemCount": len(found) - limit}
                found = found[:limit]
        items = [{key: value for key, value in obj.items() if key not in ("kind", "apiVersion")} for obj in found]
        if target.which.custom:
            items = found
        return 200, {
            "kind": f"{target.which.kind}List",
            "apiVersion": target.which.api_version,
            "metadata": meta,
            "items": items,
        }

    def _selected(self, target: Target, query: Query) -> list[Obj]:
        by_label, by_field = (
            label_test(query.get("labelSelector", "")),
            field_test(target.which, query.get("fieldSelector", "")),
        )
        found = self._store.all(target.which, target.namespace)
        return [obj for obj in found if by_label(at(obj, "metadata", "labels", default={})) and by_field(obj)]

    def create(self, target: Target, query: Query, body: Obj, manager: str) -> Answer:
        """POST."""
        _check_kind(target, body)
        if target.subresource == "eviction":
            return self._evict(target)
        made = self._writes.create(target.which, target.namespace, body, manager, dry_run=dry_run_of(query, body))
        return 201, made

    def replace(self, target: Target, query: Query, body: Obj, manager: str) -> Answer:
        """PUT."""
        with self._store.lock:
            live = self._store.get(target.which, target.namespace, target.name)
            if target.subresource != "scale":
                _check_kind(target, body)
            named = at(body, "metadata", "name", default="")
            if named != target.name:
                raise errors.bad_request(
                    f"the name of the object ({named}) does not match the name on the URL ({target.name})"
                )
            if (target.which.custom or target.which.kind == "Lease") and not at(body, "metadata", "resourceVersion"):
                cause = errors.Cause(
                    "FieldValueInvalid",
                    "metadata.resourceVersion",
                    "Invalid value: 0x0: must be specified for an update",
                )
                raise errors.invalid(target.which, target.name, [cause])
            return self._changed(target, live, body, manager, dry_run_of(query, body))

    def _changed(self, target: Target, live: Obj, body: Obj, manager: str, dry_run: bool) -> Answer:
        which, part = target.which, target.subresource
        if part == "scale":
            count = at(body, "spec", "replicas", default=0)
            meta = {**live["metadata"], "resourceVersion": at(body, "metadata", "resourceVersion")}
            body = {**live, "metadata": meta, "spec": {**live["spec"], "replicas": count}}
        changed = self._writes.change(which, live, body, manager, subresource=part, dry_run=dry_run)
        return 200, _scale_of(target, changed) if part == "scale" else changed

    def patch(self, target: Target, query: Query, body: Any, content_type: str, manager: str) -> Answer:
        """PATCH in each of its four languages."""
        if content_type == "application/apply-patch+yaml":
            return self._apply(target, query, body)
        with self._store.lock:
            live = self._store.get(target.which, target.namespace, target.name)
            seen = _scale_of(target, live) if target.subresource == "scale" else live
            if content_type == "application/json-patch+json":
                patched = json_patch(seen, body)
            elif content_type == "application/merge-patch+json":
                patched = merge_patch(seen, body)
            elif content_type == "application/strategic-merge-patch+json" and not target.which.custom:
                patched = strategic_merge(target.which, seen, body)
            else:
                raise errors.unsupported_patch(target.which.custom)
            return self._changed(target, live, patched, manager, dry_run_of(query, None))

    def _apply(self, target: Target, query: Query, body: Obj) -> Answer:
        which, name = target.which, target.name
        manager, dry_run = query.get("fieldManager", ""), dry_run_of(query, None)
        if not manager:
            cause = errors.Cause("FieldValueRequired", "fieldManager", "Required value: is required for apply patch")
            about = {
                "kind": "PatchOptions",
                "group": "meta.k8s.io",
                "causes": [{"reason": cause.type, "message": cause.message, "field": cause.field}],
            }
            raise errors.ApiError(
                422, "Invalid", f'PatchOptions.meta.k8s.io "" is invalid: fieldManager: {cause.message}', about
            )
        _check_kind(target, body, must=True)
        if at(body, "metadata", "managedFields"):
            raise errors.bad_request("metadata.managedFields must be nil")
        with self._store.lock:
            live = self._store.find(which, target.namespace, name)
            wanted_version = at(body, "metadata", "resourceVersion")
            if live is None and wanted_version:
                raise errors.conflict(which, name, "the object does not exist, and resourceVersion was given")
            if live and wanted_version not in (None, live["metadata"]["resourceVersion"]):
                raise errors.conflict(which, name)
            dropped = {"status": "spec", "": "status" if which.status else ""}.get(target.subresource, "")
            config = {key: value for key, value in body.items() if key != dropped}
            me = self._writes.owner(which, manager, "Apply", target.subresource)
            result = applied(which, live, config, me, force=flag(query, "force"))
            if live is None:
                result["metadata"]["name"] = name
                made = self._writes.create(which, target.namespace, result, manager, dry_run=dry_run, by_apply=True)
                return 201, made
            owners = owners_of(result)
            return 200, self._writes.change(
                which, live, result, manager, subresource=target.subresource, dry_run=dry_run, owners=owners
            )

    def delete(self, target: Target, query: Query, body: Obj) -> Answer:
        """DELETE of one object."""
        options = {**{key: query[key] for key in ("propagationPolicy",) if key in query}, **(body or {})}
        if "gracePeriodSeconds" in query:
            options["gracePeriodSeconds"] = int(query["gracePeriodSeconds"])
        with self._store.lock:
            live = self._store.get(target.which, target.namespace, target.name)
            waiting = self._writes.delete(target.which, live, options, dry_run=dry_run_of(query, options))
        if waiting is not None:
            return 200, waiting
        details = {
            "name": target.name,
            "group": target.which.group,
            "kind": target.which.plural,
            "uid": live["metadata"]["uid"],
        }
        details = {key: value for key, value in details.items() if value}
        return 200, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}

    def delete_all(self, target: Target, query: Query, body: Obj) -> Answer:
        """DELETE of what a selector takes."""
        with self._store.lock:
            for obj in self._selected(target, query):
                self._writes.delete(target.which, obj, dict(body or {}), dry_run=dry_run_of(query, body))
        return self.list(target, {})

    def _evict(self, target: Target) -> Answer:
        with self._store.lock:
            pod = self._store.get(target.which, target.namespace, target.name)
            for budget in self._store.all(resource("poddisruptionbudgets"), target.namespace):
                covers = matches(budget["spec"].get("selector"), at(pod, "metadata", "labels", default={}))
                if covers and at(budget, "status", "disruptionsAllowed", default=0) < 1:
                    why = f"The disruption budget {budget['metadata']['name']} does not allow another one now."
                    said = "Cannot evict pod as it would violate the pod's disruption budget."
                    raise errors.too_many(said, 10, [{"reason": "DisruptionBudget", "message": why}])
            self._writes.delete(target.which, pod, {})
        return 201, {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _check_kind(target: Target, body: Any, *, must: bool = False) -> None:
    if not isinstance(body, dict):
        raise errors.bad_request("the object provided is unrecognized (must be of type object)")
    if target.subresource:
        return
    wanted = (target.which.api_version, target.which.kind)
    given = (body.get("apiVersion", "" if must else wanted[0]), body.get("kind", "" if must else wanted[1]))
    if given != wanted:
        said = f"{given[1]} in version {given[0] or 'unset'} is not {wanted[1]} in version {wanted[0]}, which the path names"
        raise errors.bad_request(f"the API version in the data does not match the expected API version: {said}")
    named = at(body, "metadata", "namespace", default="")
    if named and target.namespace and named != target.namespace:
        raise errors.bad_request(
            f"the namespace of the provided object does not match the namespace sent on the request ({named} != {target.namespace})"
        )
    if must and at(body, "metadata", "name", default=target.name) != target.name:
        raise errors.bad_request("the name of the object does not match the name on the URL")


def _scale_of(target: Target, obj: Obj) -> Obj:
    labels = at(obj, "spec", "selector", "matchLabels", default={})
    keep = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: obj["metadata"][key] for key in keep},
        "spec": {"replicas": at(obj, "spec", "replicas", default=0)},
        "status": {
            "replicas": at(obj, "status", "replicas", default=0),
            "selector": ",".join(f"{key}={value}" for key, value in labels.items()),
        },
    }
