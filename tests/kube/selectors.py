"""Label and field selectors, as query strings and as objects hold them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kube.errors import bad_request
from kube.resources import Resource
from kube.values import Obj, at

_SET = re.compile(r"^(\S+)\s+(in|notin)\s+\(([^)]*)\)$")
_FIELDS = {
    "events": ("involvedObject.", "reason", "type", "reportingComponent", "source"),
    "pods": ("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "status.phase", "status.podIP"),
    "secrets": ("type",),
    "jobs": ("status.successful",),
    "namespaces": ("status.phase",),
}


def _split(text: str) -> list[str]:
    return [part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip()]


def label_test(text: str) -> Callable[[Mapping[str, str]], bool]:
    """The test that a labelSelector asks for. Raises 400 where it cannot be read."""
    tests: list[Callable[[Mapping[str, str]], bool]] = []
    for part in _split(text):
        if found := _SET.match(part):
            key, how, raw = found.groups()
            wanted = {value.strip() for value in raw.split(",")}
            inside = how == "in"
            tests.append(
                lambda labels, k=key, w=wanted, i=inside: (
                    (k in labels and labels[k] in w) if i else labels.get(k) not in w
                )
            )  # type: ignore[misc]
        elif "!=" in part:
            key, value = (side.strip() for side in part.split("!=", 1))
            tests.append(lambda labels, k=key, v=value: labels.get(k) != v)  # type: ignore[misc]
        elif "=" in part:
            key, value = (side.strip() for side in re.split("==?", part, maxsplit=1))
            tests.append(lambda labels, k=key, v=value: labels.get(k) == v)  # type: ignore[misc]
        elif part.startswith("!"):
            tests.append(lambda labels, k=part[1:]: k not in labels)  # type: ignore[misc]
        elif re.fullmatch(r"[A-Za-z0-9./_-]+", part):
            tests.append(lambda labels, k=part: k in labels)  # type: ignore[misc]
        else:
            raise bad_request(
                f"unable to parse requirement: found '{part}', expected: !, identifier, or 'end of string'"
            )
    return lambda labels: all(test(labels) for test in tests)


def field_test(which: Resource, text: str) -> Callable[[Obj], bool]:
    """The test that a fieldSelector asks for. Raises 400 for a field that cannot be selected by."""
    wants: list[tuple[list[str], bool, str]] = []
    for part in _split(text):
        found = re.fullmatch(r"([^=!]+)(!=|==|=)(.*)", part)
        if not found:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        path, how, value = found.groups()
        allowed = ("metadata.name", "metadata.namespace", *_FIELDS.get(which.plural, ()))
        if not any(path == each or (each.endswith(".") and path.startswith(each)) for each in allowed):
            raise bad_request(f"field label not supported: {path}")
        wants.append((path.split("."), how != "!=", value))
    return lambda obj: all((str(at(obj, *path, default="")) == value) is same for path, same, value in wants)


def matches(selector: Any, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector object (matchLabels, matchExpressions) takes these labels. An empty one takes all."""
    if any(labels.get(key) != value for key, value in (at(selector, "matchLabels", default={})).items()):
        return False
    for rule in at(selector, "matchExpressions", default=[]):
        key, values = rule["key"], rule.get("values", [])
        held = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[rule["operator"]]
        if not held:
            return False
    return True


def has_labels(obj: Obj, wanted: Mapping[str, str]) -> bool:
    """Whether an object has all these labels."""
    return wanted.items() <= at(obj, "metadata", "labels", default={}).items()
