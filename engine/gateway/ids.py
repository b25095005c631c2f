"""Request ids that say by themselves when, by which release and under which table a request was answered.

`r1-<milliseconds, base 36>-<revision, base 36>-<nonce>-<release>`: lineage ends at (release, interval), so an id
found in a log leads to both without asking the gateway. Ids sort by time within a version.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, replace

from state.request_form import NO_RELEASE, parts

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class RequestId:
    """What a request id holds. `release_id` is "" for a request that no release answered."""

    at_ms: int
    revision: int
    nonce: str
    release_id: str

    def __str__(self) -> str:
        release = self.release_id or NO_RELEASE
        return f"r1-{_time36(self.at_ms)}-{_base36(self.revision)}-{self.nonce}-{release}"

    @property
    def at(self) -> float:
        """Unix seconds of the request's admission."""
        return self.at_ms / 1000

    def of_release(self, release_id: str) -> RequestId:
        """The same request, answered by another release."""
        return replace(self, release_id=release_id)


def new_request_id(now: float, release_id: str, revision: int) -> RequestId:
    """An id for a request admitted at `now` (Unix seconds). The nonce is unique in practice, not secret."""
    return RequestId(int(now * 1000), revision, f"{random.getrandbits(40):010x}", release_id)


def decode_request_id(text: str) -> RequestId:
    """What the id `text` holds. Raises ValueError when this gateway cannot have issued it."""
    found = parts(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is not a request id: it looks like r1-TIME-REVISION-NONCE-RELEASE")
    return RequestId(*found)


@functools.lru_cache(maxsize=1024)
def _base36(number: int) -> str:
    digits = []
    while number:
        number, digit = divmod(number, 36)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits)) or "0"


_PAIRS = tuple(a + b for a in _DIGITS for b in _DIGITS)
"""Every two digits: the end of a time, whose front is the same for over a second and comes from the cache."""


def _time36(at_ms: int) -> str:
    front, end = divmod(at_ms, len(_PAIRS))
    return (_base36(front) + _PAIRS[end]).rjust(9, "0")
