"""What the gateway reads in an answer as it passes: token counts, and whether a stream came to its proper end.

Nothing is parsed or held back. The marks looked for cannot stand inside generated text, where quotes and newlines
are escaped, so a search in the bytes is exact. The space after `data:` is optional (HTML Standard, §9.2.6).
"""

from __future__ import annotations

import re

_DONE = re.compile(rb"\ndata: ?\[DONE\]")
_ERROR = re.compile(rb'\ndata: ?\{"error"')
_EVENT = re.compile(rb"\ndata: ?\{")
_OUT = re.compile(rb'"(?:completion_tokens|tokens_generated)"\s*:\s*(\d{1,9})')
_IN = re.compile(rb'"prompt_tokens"\s*:\s*(\d{1,9})')
_TAIL = 48
"""Bytes kept of the last chunk, so that a mark cut in two by the network is still seen."""


def tokens_of(body: bytes) -> tuple[int, int]:
    """(prompt tokens, completion tokens) that an answer states, 0 where it does not."""
    return _last(_IN, body), _last(_OUT, body)


class StreamWatch:
    """Follows a server-sent event stream chunk by chunk."""

    def __init__(self) -> None:
        self.is_done = False
        self.has_error = False
        self.tokens_in = 0
        self._stated = 0
        self._events = 0
        self._tail = b"\n"

    def feed(self, chunk: bytes) -> None:
        """See one chunk."""
        seen = self._tail + chunk
        self._events += len(_EVENT.findall(seen)) - len(_EVENT.findall(self._tail))
        self.is_done = self.is_done or _DONE.search(seen) is not None
        self.has_error = self.has_error or _ERROR.search(seen) is not None
        if b"_token" in seen:
            self.tokens_in = _last(_IN, seen) or self.tokens_in
            self._stated = _last(_OUT, seen) or self._stated
        self._tail = seen[-_TAIL:]

    @property
    def tokens_out(self) -> int:
        """Completion tokens: as the usage block states them, else one an event."""
        return self._stated or self._events


def _last(pattern: re.Pattern[bytes], body: bytes) -> int:
    found = pattern.findall(body)
    return int(found[-1]) if found else 0
