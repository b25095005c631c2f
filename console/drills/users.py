"""A drill's own users: a steady trickle of requests through the public address, so that what they met can be counted."""

from __future__ import annotations

import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from console.commands.asking import credential, gateway_address, own_certificate, shown_certificate
from state.pinned import pinned_context

if TYPE_CHECKING:
    from console.commands.context import Context

TIMEOUT_S = 30.0
WORKERS = 4


@dataclass(frozen=True, slots=True)
class Met:
    """One request: when it was answered, by which release ("" when it failed), and whether it was answered well."""

    at: float
    release: str
    is_good: bool


@dataclass
class Users:
    """Sends `rps` requests a second until `stop`; what they met is in `met`, by the monotonic clock."""

    context: Context
    service: str
    env: str
    rps: float = 20.0
    met: list[Met] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Users:
        self._url = urlsplit(gateway_address(self.context))
        certificate = own_certificate(self.context, self._url.geturl())
        self._tls: ssl.SSLContext | None = (
            pinned_context(certificate, shown_certificate(self.context)) if certificate is not None else None
        )
        self._threads = [threading.Thread(target=self._go, args=(n,), daemon=True) for n in range(WORKERS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more, and wait for what is in flight."""
        self._over.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    @property
    def failed(self) -> int:
        """Requests that were not answered well."""
        return sum(not one.is_good for one in list(self.met))

    def last_of(self, release: str) -> float | None:
        """When `release` answered last, by the monotonic clock."""
        return max((one.at for one in list(self.met) if one.release == release), default=None)

    def _go(self, number: int) -> None:
        gap = WORKERS / self.rps
        due = time.monotonic() + gap * number / WORKERS
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due = max(due + gap, time.monotonic() - 1.0)
            self.met.append(self._ask())

    def _ask(self) -> Met:
        place = self._url.netloc
        secure = self._url.scheme == "https"
        connection = HTTPSConnection(place, timeout=TIMEOUT_S, context=self._tls) if secure else HTTPConnection(place, timeout=TIMEOUT_S)  # fmt: skip
        try:
            body = json.dumps({"model": self.service, "prompt": "the ", "max_tokens": 1})
            headers = {"content-type": "application/json", "x-airboss-env": self.env, **credential()}
            connection.request("POST", "/v1/completions", body, headers)
            answer = connection.getresponse()
            answer.read()
            return Met(time.monotonic(), answer.headers.get("x-airboss-release", ""), answer.status == 200)
        except (OSError, HTTPException):
            return Met(time.monotonic(), "", False)
        finally:
            connection.close()
