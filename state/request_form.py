"""What a request id says by itself: when, under which table and by which release a request was answered. Standard library only.

`r1-<milliseconds, base 36>-<revision, base 36>-<nonce>-<release>`; the gateway makes them (`engine.gateway.ids`).
"""

from __future__ import annotations

import re
from typing import Final

FORM: Final = re.compile(r"r1-([0-9a-z]{9})-([0-9a-z]{1,12})-([0-9a-f]{10})-([A-Za-z0-9._-]{1,64})")
NO_RELEASE: Final = "_"


def parts(text: str) -> tuple[int, int, str, str] | None:
    """(milliseconds since the epoch, table revision, nonce, release or ""); None when it is no such id."""
    found = FORM.fullmatch(text)
    if found is None:
        return None
    at, revision, nonce, release = found.groups()
    return int(at, 36), int(revision, 36), nonce, "" if release == NO_RELEASE else release
