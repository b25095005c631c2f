"""The floors of others' autoscalers (HorizontalPodAutoscaler, KEDA's ScaledObject), raised while a release must keep its pods (I13).

An autoscaler sees little load on a canary of 5 %, and none on what one would return to: it would take the pods away that the
next step, or the way back, counts on. What the floor was is kept in an annotation, so that it is given back after a crash too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from adapters.kubernetes.cluster import Cluster
from state.words import Conflict, Denied, OperationFailed, Unreachable

log = logging.getLogger("airboss.kubernetes")
BEFORE = "airboss.dev/floor-before"
PAUSED = "autoscaling.keda.sh/paused-replicas"
LOOK_S = 5.0
TRIES = 4
Object = dict[str, Any]


class Kind(NamedTuple):
    """One kind of autoscaler: where its floor is, and what it is when nothing is said."""

    resource: str
    field: str
    default: int


KINDS = (Kind("horizontalpodautoscalers", "minReplicas", 1), Kind("scaledobjects", "minReplicaCount", 0))


class Floors:
    """The autoscalers that have a Deployment of the environment as their target."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._held: Mapping[str, int] | None = None
        self._looked_at = 0.0
        self.moves = 0
        """How often pods were asked for so far: whoever decides what to hold takes this first."""

    async def hold(self, wanted: Mapping[str, int], moves: int) -> None:
        """Have these Deployments' floors at no less than so many pods, and every other of the environment as it was before.

        `moves` is what the count was before `wanted` was read. If it has grown, a release may count on its pods by now that
        `wanted` knows nothing of: then nothing is given back, and it is looked at again.
        """
        now = time.monotonic()
        if wanted == self._held and now - self._looked_at < LOOK_S:
            return
        is_whole = True
        for kind in KINDS:
            for one in await self._all(kind):
                name = _target(one)
                if name not in self.cluster.deployments.objects:
                    continue
                if name in wanted:
                    is_whole &= await self._set(kind, one, max(wanted[name], self._replicas(name)))
                elif BEFORE in _notes(one):
                    is_whole &= self.moves == moves and await self._set(kind, one, None)
        self._held, self._looked_at = dict(wanted) if is_whole else None, now

    async def follow(self, name: str, replicas: int) -> None:
        """A Deployment is about to have so many pods: no autoscaler may take them away; for none, KEDA must not bring them back."""
        self.moves += 1
        self._held = None
        for kind in KINDS:
            for _ in range(TRIES):
                mine = [one for one in await self._all(kind) if _target(one) == name]
                # One that has moved meanwhile is read again, now: who asks counts on it before the traffic.
                if all([await self._set(kind, one, replicas or None, paused=not replicas) for one in mine]):
                    break

    def _replicas(self, name: str) -> int:
        return int(self.cluster.deployments.objects[name]["spec"].get("replicas", 1))

    async def _all(self, kind: Kind) -> list[Object]:
        try:
            found, _ = await self.cluster.client.list(self.cluster.path(kind.resource))
        except OperationFailed:
            return []  # a cluster without KEDA
        except (Denied, Unreachable) as error:
            # A floor is never worth a rollback that waits; it is looked at again.
            log.warning("%s cannot be read, their floors stay as they are: %s", kind.resource, error)
            return []
        # KEDA keeps an HPA of its own beside each ScaledObject: the ScaledObject's floor is what counts.
        return [o for o in found if all(r["kind"] != "ScaledObject" for r in o["metadata"].get("ownerReferences", ()))]

    async def _set(self, kind: Kind, one: Object, floor: int | None, *, paused: bool = False) -> bool:
        """Raise the floor to `floor`, never below what it was; None gives it back. False when it moved meanwhile."""
        now = int(one["spec"].get(kind.field, kind.default))
        notes = dict(_notes(one))
        before = int(notes.get(BEFORE, now))
        most = int(one["spec"].get("maxReplicas", one["spec"].get("maxReplicaCount", floor or before)))
        wanted = before if floor is None else max(before, min(floor, most))
        notes.pop(BEFORE, None)
        if wanted != before:
            notes[BEFORE] = str(before)
        if kind.resource == "scaledobjects":
            if notes.get(PAUSED) == "0":
                del notes[PAUSED]  # another number is a person's
            if paused:
                notes[PAUSED] = "0"
        if wanted == now and notes == _notes(one):
            return True
        meta = one["metadata"]
        path = self.cluster.path(kind.resource, meta["name"])
        patch = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": meta["resourceVersion"]},
            {"op": "add", "path": "/metadata/annotations", "value": notes},
            {"op": "add", "path": f"/spec/{kind.field}", "value": wanted},
        ]
        try:
            await self.cluster.client.patch(path, self.cluster.fenced(one, patch))
        except Conflict as error:
            log.info("%s %s has moved; its floor is looked at again: %s", kind.resource, meta["name"], error)
            return False
        except Denied as error:
            log.warning("the floor of %s %s stays at %d: %s", kind.resource, meta["name"], now, error)
        return True


def _target(one: Object) -> str:
    """The Deployment that an autoscaler scales; "" for another kind."""
    ref = one["spec"].get("scaleTargetRef") or {}
    return str(ref.get("name", "")) if ref.get("kind", "Deployment") == "Deployment" else ""


def _notes(one: Object) -> Mapping[str, str]:
    return one["metadata"].get("annotations") or {}
