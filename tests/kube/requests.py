"""What a request asks: its path taken apart, its body read; and the log of all of them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from kube.errors import ApiError, bad_request
from kube.resources import Resource

SUBRESOURCES = ("status", "scale", "log", "eviction", "proxy")


@dataclass(frozen=True, slots=True)
class Target:
    """The thing a path names. An empty name is the collection."""

    which: Resource
    namespace: str
    name: str
    subresource: str
    rest: str = ""
    """What follows `proxy` in the path."""


def target_of(path: str, served: Mapping[tuple[str, str, str], Resource]) -> Target | None:
    """Take a path apart; None where it names nothing that is served."""
    steps = path.strip("/").split("/")
    if steps[0] == "api" and len(steps) > 2:
        group, version, steps = "", steps[1], steps[2:]
    elif steps[0] == "apis" and len(steps) > 3:
        group, version, steps = steps[1], steps[2], steps[3:]
    else:
        return None
    namespace = ""
    if steps[0] == "namespaces" and len(steps) > 2 and steps[2] not in SUBRESOURCES:
        namespace, steps = steps[1], steps[2:]
    which = served.get((group, version, steps[0]))
    if which is None or (namespace and not which.namespaced):
        return None
    name, subresource = (steps[1:2] or [""])[0], (steps[2:3] or [""])[0]
    return Target(which, namespace, name, subresource, "/".join(steps[3:]))


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came, and how it was answered."""

    method: str
    path: str
    query: Mapping[str, str]
    content_type: str
    raw: bytes
    user: str
    status: int

    @property
    def body(self) -> Any:
        """The body read as YAML (which JSON is); None where there is none."""
        return yaml.safe_load(self.raw) if self.raw else None


class RequestLog:
    """Every request the server had, oldest first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Note a request that was answered, or cut."""
        with self._lock:
            self._requests.append(request)

    def clear(self) -> None:
        """Forget what was."""
        with self._lock:
            self._requests.clear()

    def all(self, method: str = "", path: str = "") -> list[Request]:
        """The requests of a method whose path has this regular expression in it."""
        with self._lock:
            return [each for each in self._requests if method in ("", each.method) and re.search(path, each.path)]

    def writes(self, path: str = "") -> list[Request]:
        """All but reads and the reviews of access."""
        return [
            each for each in self.all(path=path) if each.method != "GET" and "authorization.k8s.io" not in each.path
        ]


def read_body(raw: bytes, content_type: str) -> Any:
    """The body as a JSON tree. Raises 400 where it is none."""
    if not raw:
        return {}
    try:
        return yaml.safe_load(raw) if "yaml" in content_type else json.loads(raw)
    except (ValueError, yaml.YAMLError) as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None


def flag(query: Mapping[str, str], name: str) -> bool:
    """Whether a query asks for something by a true value."""
    return query.get(name, "").lower() in ("true", "1")


def dry_run_of(query: Mapping[str, str], body: Any) -> bool:
    """Whether nothing may be kept. Raises 422 for a value other than All."""
    asked = query.get("dryRun") or (
        (body.get("dryRun") or [""])[0] if isinstance(body, dict) and body.get("kind") == "DeleteOptions" else ""
    )
    if asked not in ("", "All"):
        raise ApiError(422, "Invalid", f'dryRun: Unsupported value: "{asked}": supported values: "All"')
    return asked == "All"
