"""How long a client will wait, as it says itself, capped by the route. Pure."""

from __future__ import annotations

from collections.abc import Mapping

TIMEOUT_HEADERS = (("x-request-timeout-ms", 0.001), ("timeout", 1.0))
"""Header, and the seconds its unit is worth; the first one sent counts."""


def deadline_of(headers: Mapping[str, str], route_deadline_s: float) -> float:
    """Seconds this request may take. Raises ValueError, with what is allowed, for a header that is no duration."""
    for name, unit_s in TIMEOUT_HEADERS:
        text = headers.get(name)
        if text is None:
            continue
        try:
            asked_s = float(text) * unit_s
        except ValueError:
            asked_s = -1.0
        if not 0 < asked_s < float("inf"):
            unit = "milliseconds" if unit_s < 1 else "seconds"
            raise ValueError(f"{name} must be a number of {unit} above 0, not {text[:40]!r}")
        return min(asked_s, route_deadline_s)
    return route_deadline_s
