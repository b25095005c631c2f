"""Faults by script: a test says which requests, how many of them, and what happens to them."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from kube.errors import MODIFIED, ApiError, expired, internal, too_many


@dataclass
class Fault:
    """What happens to the next `times` requests of a method and path.

    `answer` is given in place of the request's own. The others leave the request as it is: `latency_s` waits before it,
    `reset` cuts the connection before or after the write is made, `half_body` sends half the answer and cuts, and
    `cut_watch_after` ends a watch (in the middle of a line with `half_body`) after so many events."""

    method: str = "*"
    path: str = ""
    """A regular expression searched for in path and query."""
    times: int = 1
    answer: ApiError | None = None
    latency_s: float = 0.0
    reset: str = ""
    """`before` or `after` the write."""
    half_body: bool = False
    raw: str = ""
    """A body that is no Kubernetes answer (a proxy's login page), sent with 200 as text/html."""
    cut_watch_after: int | None = None
    hits: int = 0

    def takes(self, method: str, target: str) -> bool:
        """Whether this request is one of those meant, with some left."""
        return self.hits < self.times and self.method in ("*", method) and re.search(self.path, target) is not None


class Faults:
    """The faults that are set, first set first met."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Set a fault; its `hits` tell how often it was met."""
        with self._lock:
            self._set.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults."""
        with self._lock:
            self._set.clear()

    def next_for(self, method: str, target: str) -> Fault | None:
        """The fault that meets this request; it counts as met."""
        with self._lock:
            for fault in self._set:
                if fault.takes(method, target):
                    fault.hits += 1
                    return fault
            return None


def refusal(code: int, *, retry_after_s: int = 1, message: str = "") -> ApiError:
    """The usual body of an HTTP error of a server in trouble: 409, 410, 422, 429, 500, 503, 504."""
    if code == 429:
        return too_many(message or "too many requests, please try again later", retry_after_s)
    if code == 409:
        return ApiError(409, "Conflict", message or f"Operation cannot be fulfilled: {MODIFIED}")
    if code == 410:
        return expired(message or "The resourceVersion for the provided watch is too old.")
    if code == 422:
        return ApiError(422, "Invalid", message or "the server rejected our request due to an error in our request")
    if code == 500:
        return internal(message or "etcdserver: request timed out")
    if code == 504:
        return ApiError(504, "Timeout", message or "Timeout: request did not complete within the allotted timeout")
    reason = {503: "ServiceUnavailable", 403: "Forbidden", 401: "Unauthorized"}.get(code, "")
    return ApiError(code, reason, message or "the server is currently unable to handle the request")
