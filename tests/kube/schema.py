"""Which lists merge by key and which fields are one piece, for server-side apply and for strategic merge."""

from __future__ import annotations

from kube.resources import Resource
from kube.values import Obj

_BY_NAME = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "hostAliases": ("ip",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
}
_ONE_PIECE = frozenset({
    "nodeSelector", "configMapKeyRef", "secretKeyRef", "fieldRef", "resourceFieldRef", "scaleTargetRef", "targetRef",
    "involvedObject",
})  # fmt: skip
_SETS = frozenset({"finalizers"})
_DEFAULTS = {"protocol": "TCP"}


def list_keys(which: Resource, fields: tuple[str, ...]) -> tuple[str, ...]:
    """The fields that name an item of the list at `fields`; none where the list is one piece."""
    last = fields[-1]
    if which.custom and fields[0] != "metadata":
        return _custom_keys(which, fields)
    if last == "ports":
        return {("spec", "ports"): ("port", "protocol"), ("ports",): ()}.get(fields, ("containerPort", "protocol"))
    return _BY_NAME.get(last, ())


def _custom_keys(which: Resource, fields: tuple[str, ...]) -> tuple[str, ...]:
    if which.group != "gateway.networking.k8s.io":
        return ()
    return {"listeners": ("name",), "conditions": ("type",)}.get(fields[-1], ())


def is_set(fields: tuple[str, ...]) -> bool:
    """Whether the list at `fields` is a set of plain values."""
    return fields[-1] in _SETS


def is_one_piece(which: Resource, fields: tuple[str, ...]) -> bool:
    """Whether the map at `fields` has one owner for the whole of it."""
    if not fields or which.custom:
        return False
    return fields[-1] in _ONE_PIECE or fields[-2:] == ("spec", "selector")


def item_key(item: Obj, keys: tuple[str, ...]) -> tuple[tuple[str, object], ...]:
    """The values that name an item of an associative list."""
    return tuple((key, item.get(key, _DEFAULTS.get(key))) for key in keys)


def merge_key(which: Resource, fields: tuple[str, ...]) -> str:
    """The one key that a strategic merge joins the list at `fields` by; empty where the patch replaces it."""
    keys = list_keys(which, fields)
    return keys[0] if keys else ""
