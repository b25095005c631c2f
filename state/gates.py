"""A gate as people write it. Standard library only: every stage of a pipeline that is a command starts with it."""

from __future__ import annotations

import re

_GATE = re.compile(r"(?:(warning):\s*)?([\w./:-]+)\s*(<=|>=|<|>)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")


def parse_gate(text: str) -> tuple[str, str, float, bool]:
    """(metric, op, limit, blocking) of `accuracy >= 0.9` or `warning: size_mb <= 100`. Raises ValueError."""
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"gate {text!r} must be 'METRIC >= NUMBER' (<=, <, >=, >), with 'warning: ' before it if it may not stop"
        )
    return found[2], found[3], float(found[4]), found[1] is None
