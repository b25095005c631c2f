"""JSON patch, merge patch and strategic merge patch."""

from __future__ import annotations

from typing import Any

from kube import schema
from kube.errors import bad_request, patch_refused
from kube.resources import Resource
from kube.values import Obj, copied


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: null removes, a list replaces the whole list."""
    if not isinstance(patch, dict):
        return copied(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(target: Obj, operations: Any) -> Obj:
    """RFC 6902. Raises 422 where an operation, `test` too, does not hold; 400 where it is no patch."""
    if not isinstance(operations, list) or not all(isinstance(each, dict) and "op" in each for each in operations):
        raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    document: Any = copied(target)
    for each in operations:
        try:
            document = _operated(document, each)
        except (KeyError, IndexError, ValueError, TypeError):
            raise patch_refused() from None
    if not isinstance(document, dict):
        raise patch_refused()
    return document


def _operated(document: Any, each: Obj) -> Any:
    op, path = each["op"], _pointer(each["path"])
    if op == "test":
        if not _same(_read(document, path), each.get("value")):
            raise ValueError("test failed")
        return document
    if op in ("move", "copy"):
        value = copied(_read(document, _pointer(each["from"])))
        document = _removed(document, _pointer(each["from"])) if op == "move" else document
        return _added(document, path, value)
    if op == "remove":
        return _removed(document, path)
    if op == "replace":
        _read(document, path)
        if path and isinstance(_read(document, path[:-1]), list):
            _read(document, path[:-1])[int(path[-1])] = copied(each["value"])
            return document
        return _added(document, path, each["value"])
    if op == "add":
        return _added(document, path, each["value"])
    raise ValueError(f"unknown operation {op}")


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _index(step: str, length: int) -> int:
    if not step.isdigit() or int(step) >= length:
        raise IndexError(step)
    return int(step)


def _read(value: Any, path: list[str]) -> Any:
    for step in path:
        value = value[_index(step, len(value))] if isinstance(value, list) else value[step]
    return value


def _added(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return copied(value)
    parent, last = _read(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), copied(value))
    elif isinstance(parent, dict):
        parent[last] = copied(value)
    else:
        raise TypeError(last)
    return document


def _removed(document: Any, path: list[str]) -> Any:
    parent, last = _read(document, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(last, len(parent))]
    else:
        del parent[last]
    return document


def strategic_merge(which: Resource, target: Any, patch: Any, fields: tuple[str, ...] = ()) -> Any:
    """Kubernetes's own merge: lists of named things join by their key; `$patch`, `$retainKeys` and their like are obeyed."""
    if not isinstance(patch, dict):
        return copied(patch)
    if patch.get("$patch") == "replace":
        return {key: copied(value) for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    merged = dict(target) if isinstance(target, dict) else {}
    for key in list(merged):
        if "$retainKeys" in patch and key not in patch["$retainKeys"]:
            del merged[key]
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            merged[name] = [item for item in merged.get(name, []) if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        elif isinstance(value, list):
            merged[key] = _joined(which, merged.get(key) or [], value, (*fields, key))
        else:
            merged[key] = strategic_merge(which, merged.get(key), value, (*fields, key))
    return merged


def _joined(which: Resource, target: list[Any], patch: list[Any], fields: tuple[str, ...]) -> list[Any]:
    if schema.is_set(fields):
        return [*target, *(item for item in patch if item not in target)]
    key = schema.merge_key(which, fields)
    if not key:
        return [copied(item) for item in patch]
    if any(item.get("$patch") == "replace" for item in patch):
        return [copied(item) for item in patch if "$patch" not in item]
    merged = list(target)
    for item in patch:
        if key not in item:
            raise bad_request(f"map: {item} does not contain declared merge key: {key}")
        here = next((n for n, old in enumerate(merged) if old.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            merged = [old for old in merged if old.get(key) != item[key]]
        elif here is None:
            merged.append(strategic_merge(which, {}, item, fields))
        else:
            merged[here] = strategic_merge(which, merged[here], item, fields)
    return merged
