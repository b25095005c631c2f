"""What the server keeps: every object by its key, one counter of versions, and the changes a watch may still ask for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from kube.errors import expired, not_found
from kube.resources import Resource
from kube.values import Obj, copied

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for what has none."""


@dataclass(frozen=True, slots=True)
class Change:
    """One write, as watches tell it."""

    version: int
    kind: Literal["ADDED", "MODIFIED", "DELETED"]
    which: Resource
    key: Key
    old: Obj | None
    new: Obj


class Store:
    """Objects and their history. Every method takes the lock; hold `lock` yourself around several."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.version = 1000
        self.forgotten = 1000
        """Changes up to this version cannot be watched from any more."""
        self._objects: dict[Resource, dict[Key, Obj]] = {}
        self._changes: list[Change] = []
        self._listeners: list[Callable[[], None]] = []

    def listen(self, told: Callable[[], None]) -> None:
        """Call `told` after every change."""
        self._listeners.append(told)

    def find(self, which: Resource, namespace: str, name: str) -> Obj | None:
        """A copy of the object, None where there is none."""
        with self.lock:
            found = self._objects.get(which, {}).get((namespace, name))
            return None if found is None else copied(found)

    def get(self, which: Resource, namespace: str, name: str) -> Obj:
        """A copy of the object. Raises 404."""
        found = self.find(which, namespace, name)
        if found is None:
            raise not_found(which, name)
        return found

    def all(self, which: Resource, namespace: str = "") -> list[Obj]:
        """Copies of every object, or of those in one namespace, in the order of their names."""
        with self.lock:
            kept = self._objects.get(which, {})
            return [copied(kept[key]) for key in sorted(kept) if not namespace or key[0] == namespace]

    def everything(self) -> Iterable[tuple[Resource, Obj]]:
        """Every object there is."""
        with self.lock:
            return [(which, copied(obj)) for which, kept in self._objects.items() for obj in kept.values()]

    def put(self, which: Resource, obj: Obj) -> Obj:
        """Write the object with the next version; a copy of what was written."""
        with self.lock:
            key = _key(obj)
            old = self._objects.setdefault(which, {}).get(key)
            new = copied(obj)
            self._record("MODIFIED" if old else "ADDED", which, key, old, new)
            self._objects[which][key] = new
            return copied(new)

    def remove(self, which: Resource, obj: Obj) -> Obj:
        """Take the object away; a copy of what was there last, with the version of its end."""
        with self.lock:
            key = _key(obj)
            old = self._objects[which].pop(key)
            last = copied(old)
            self._record("DELETED", which, key, old, last)
            return copied(last)

    def _record(
        self, kind: Literal["ADDED", "MODIFIED", "DELETED"], which: Resource, key: Key, old: Obj | None, new: Obj
    ) -> None:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self._changes.append(Change(self.version, kind, which, key, old, new))
        for told in self._listeners:
            told()

    def changes(self, after: int) -> list[Change]:
        """Every change after a version, oldest first. Raises 410 where they are forgotten."""
        with self.lock:
            if after < self.forgotten:
                raise expired(f"too old resource version: {after} ({self.forgotten})")
            newer: list[Change] = []
            for change in reversed(self._changes):
                if change.version <= after:
                    break
                newer.append(change)
            return newer[::-1]

    def forget(self, up_to: int | None = None) -> None:
        """Compact: no watch or paged list from before this version (all of the past unless said) is answered."""
        with self.lock:
            self.forgotten = self.version if up_to is None else up_to
            self._changes = [change for change in self._changes if change.version > self.forgotten]


def _key(obj: Obj) -> Key:
    return (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
