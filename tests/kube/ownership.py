"""managedFields: who owns which field, as sets of paths in the words of FieldsV1."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kube import schema
from kube.resources import Resource
from kube.values import Obj

Path = tuple[str, ...]
_ITEM = object()
_NEVER = ("apiVersion", "kind")
_NEVER_META = frozenset({
    "name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion",
    "deletionTimestamp", "deletionGracePeriodSeconds",
})  # fmt: skip


def flattened(which: Resource, obj: Obj) -> dict[Path, Any]:
    """Every field that can be owned, with its value; items of keyed lists and sets stand for themselves too."""
    leaves: dict[Path, Any] = {}
    for key, value in obj.items():
        if key == "metadata":
            value = {name: item for name, item in value.items() if name not in _NEVER_META}
        if key not in _NEVER and not (key == "metadata" and not value):
            _walk(which, value, (f"f:{key}",), (key,), leaves)
    return leaves


def _walk(which: Resource, value: Any, path: Path, fields: tuple[str, ...], leaves: dict[Path, Any]) -> None:
    if isinstance(value, dict) and value and not schema.is_one_piece(which, fields):
        for key, item in value.items():
            if item is not None:
                _walk(which, item, (*path, f"f:{key}"), (*fields, key), leaves)
    elif isinstance(value, list) and value and schema.is_set(fields):
        leaves.update(((*path, f"v:{json.dumps(item)}"), _ITEM) for item in value)
    elif isinstance(value, list) and value and (keys := schema.list_keys(which, fields)) and _keyed(value):
        for item in value:
            named = (*path, item_step(item, keys))
            leaves[named] = _ITEM
            _walk(which, item, named, fields, leaves)
    elif value is not None:
        leaves[path] = value


def _keyed(value: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in value)


def item_step(item: Obj, keys: tuple[str, ...]) -> str:
    """`k:{"name":"app"}`: the step of a path that names an item of a keyed list."""
    return "k:" + json.dumps(dict(schema.item_key(item, keys)), separators=(",", ":"))


def shown(path: Path) -> str:
    """`.spec.template.spec.containers[name="app"].image`, as a conflict names it."""
    text = ""
    for step in path:
        kind, rest = step[:2], step[2:]
        if kind == "f:":
            text += f".{rest}"
        elif kind == "v:":
            text += f"[={rest}]"
        else:
            text += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(rest).items()) + "]"
    return text


def fields_v1(paths: Iterable[Path]) -> Obj:
    """A set of paths as managedFields holds it."""
    tree: Obj = {}
    for path in sorted(paths):
        here = tree
        for step in path:
            here = here.setdefault(step, {})
        here["."] = {}
    return _without_lone_dots(tree)


def _without_lone_dots(tree: Obj) -> Obj:
    return {
        step: {} if step == "." or list(below) == ["."] else _without_lone_dots(below) for step, below in tree.items()
    }


def paths_of(tree: Obj, before: Path = ()) -> set[Path]:
    """The set that a FieldsV1 tree stands for."""
    found: set[Path] = set()
    for step, below in tree.items():
        if step == ".":
            found.add(before)
        elif not below:
            found.add((*before, step))
        else:
            found |= paths_of(below, (*before, step))
    return found


@dataclass
class Owner:
    """One row of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    paths: set[Path]

    @property
    def identity(self) -> tuple[str, ...]:
        version = self.api_version if self.operation == "Update" else ""
        return (self.manager, self.operation, self.subresource, version)

    def shown(self) -> str:
        """As a conflict names it."""
        name = json.dumps(self.manager)
        name += f' with subresource "{self.subresource}"' if self.subresource else ""
        return name + (f" using {self.api_version}" if self.operation == "Update" else "")

    def row(self) -> Obj:
        """As managedFields holds it."""
        return {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields_v1(self.paths),
            **({"subresource": self.subresource} if self.subresource else {}),
        }


def owners_of(obj: Obj) -> list[Owner]:
    """The owners that an object names."""
    return [
        Owner(
            row["manager"], row["operation"], row["apiVersion"], row.get("subresource", ""), row.get("time", ""),
            paths_of(row.get("fieldsV1", {})),
        )
        for row in obj["metadata"].get("managedFields", [])
    ]  # fmt: skip


def set_owners(obj: Obj, owners: Iterable[Owner]) -> None:
    """Write the owners into the object; one that owns nothing is left out."""
    rows = [owner.row() for owner in owners if owner.paths]
    obj["metadata"].pop("managedFields", None)
    if rows:
        obj["metadata"]["managedFields"] = rows


def owner_for(owners: list[Owner], wanted: Owner) -> Owner:
    """The row of the same identity, added where there is none."""
    for owner in owners:
        if owner.identity == wanted.identity:
            return owner
    owners.append(wanted)
    return wanted


def note_update(which: Resource, old: Obj | None, new: Obj, me: Owner) -> None:
    """After a write other than apply: what changed is mine, what went is nobody's. `new` gets the rows of `old`."""
    before, after = flattened(which, old) if old else {}, flattened(which, new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    gone = {path for path in before if path not in after}
    owners = owners_of(old) if old else []
    for owner in owners:
        owner.paths -= changed | gone
    if changed:
        mine = owner_for(owners, me)
        mine.paths |= changed
        mine.time = me.time
    set_owners(new, owners)
