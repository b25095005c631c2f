"""Server-side apply: merge by the schema, conflicts with other owners, removal of what an applier no longer lists."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from kube import schema
from kube.errors import ApiError
from kube.ownership import Owner, Path, flattened, item_step, owner_for, owners_of, set_owners, shown
from kube.resources import Resource
from kube.values import Obj, copied


def applied(which: Resource, live: Obj | None, config: Obj, me: Owner, *, force: bool) -> Obj:
    """The object after `me` applies `config`, managedFields included. Raises 409 naming every owner in the way."""
    mine = set(flattened(which, config))
    if live is None:
        made: Obj = copied(config)
        me.paths = mine
        set_owners(made, [me])
        return made
    merged: Obj = _merged(which, live, config, ())
    owners = owners_of(live)
    before, after = flattened(which, live), flattened(which, merged)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    _settle_conflicts([owner for owner in owners if owner.identity != me.identity], changed, force=force)
    row = owner_for(owners, Owner(me.manager, me.operation, me.api_version, me.subresource, me.time, set()))
    others: set[Path] = set().union(*(owner.paths for owner in owners if owner is not row))
    kept = mine | others
    for path in sorted(row.paths - mine, key=len):
        if not any(each[: len(path)] == path for each in kept):
            _remove(which, merged, path)
    if row.paths != mine or changed:
        row.time = me.time
    row.paths, row.api_version = mine, me.api_version
    set_owners(merged, owners)
    return merged


def _settle_conflicts(others: list[Owner], changed: set[Path], *, force: bool) -> None:
    found: dict[str, list[Path]] = defaultdict(list)
    for owner in others:
        for path in sorted(owner.paths & changed):
            found[owner.shown()].append(path)
        if force:
            owner.paths -= changed
    if not found or force:
        return
    count = sum(map(len, found.values()))
    if count == 1:
        ((name, (path,)),) = found.items()
        said = f"Apply failed with 1 conflict: conflict with {name}: {shown(path)}"
    else:
        lines = [
            line
            for name in sorted(found)
            for line in (f"conflicts with {name}:", *(f"- {shown(p)}" for p in found[name]))
        ]
        said = f"Apply failed with {count} conflicts: " + "\n".join(lines)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {name}", "field": shown(path)}
        for name, paths in found.items()
        for path in paths
    ]
    raise ApiError(409, "Conflict", said, {"causes": causes})


def _merged(which: Resource, live: Any, config: Any, fields: tuple[str, ...]) -> Any:
    if isinstance(config, dict) and isinstance(live, dict) and not schema.is_one_piece(which, fields):
        joined = {key: copied(value) for key, value in live.items()}
        for key, value in config.items():
            if value is not None:
                joined[key] = _merged(which, live.get(key), value, (*fields, key))
        return joined
    if isinstance(config, list) and isinstance(live, list) and fields:
        if schema.is_set(fields):
            return [*live, *(item for item in config if item not in live)]
        if keys := schema.list_keys(which, fields):
            return _merged_items(which, live, config, fields, keys)
    return copied(config)


def _merged_items(
    which: Resource, live: list[Any], config: list[Any], fields: tuple[str, ...], keys: tuple[str, ...]
) -> list[Any]:
    new = {schema.item_key(item, keys): item for item in config}
    joined = []
    for item in live:
        wanted = new.pop(schema.item_key(item, keys), None)
        joined.append(copied(item) if wanted is None else _merged(which, item, wanted, fields))
    return joined + [copied(item) for item in new.values()]


def _remove(which: Resource, obj: Any, path: Path, fields: tuple[str, ...] = ()) -> None:
    """Take one owned field away, and the maps and lists that are empty without it."""
    step, rest = path[0], path[1:]
    if step.startswith("k:"):
        keys = schema.list_keys(which, fields)
        for item in [each for each in obj if item_step(each, keys) == step]:
            if rest:
                _remove(which, item, rest, fields)
            else:
                obj.remove(item)
        return
    if step.startswith("v:"):
        obj[:] = [each for each in obj if f"v:{json.dumps(each)}" != step]
        return
    name = step[2:]
    if name not in obj:
        return
    if not rest:
        del obj[name]
        return
    _remove(which, obj[name], rest, (*fields, name))
    if obj[name] in ({}, []):
        del obj[name]
