"""When a replica that answers pings is left out all the same: what one request, or a comparison, changes. Pure.

A circuit is closed, open until a moment, or on trial after it: one request at a time then decides. What opens it is
requests failed in a row, or a success rate far below its siblings'. Times are a monotonic clock's.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from enum import StrEnum

from adapters.routing import Breaker


class Fault(StrEnum):
    """How an attempt failed by the replica's own doing."""

    SERVER_ERROR = "5xx"
    BREAK = "break"
    """No connection, a broken or meaningless answer, or none until the deadline."""


@dataclass(frozen=True, slots=True)
class Circuit:
    """What requests have shown of one replica. `open_until` is None while it is closed."""

    errors: int = 0
    breaks: int = 0
    ejections: int = 0
    """How often it opened without a calm time between; each makes the next one twice as long."""
    open_until: float | None = None
    closed_at: float = float("-inf")
    is_tried: bool = False
    """A request that decides a trial is under way."""

    def is_open(self, now: float) -> bool:
        """Left out, for its time."""
        return self.open_until is not None and now < self.open_until

    def is_on_trial(self, now: float) -> bool:
        """Its time is over, and nothing has shown yet that it is well."""
        return self.open_until is not None and now >= self.open_until


CLOSED = Circuit()


def after_success(circuit: Circuit, now: float) -> Circuit:
    """A request was answered well: counts begin anew, and a trial is won. One still open stays so for its time."""
    if circuit.is_on_trial(now):
        return Circuit(ejections=circuit.ejections, closed_at=now)
    if circuit.errors or circuit.breaks:
        return replace(circuit, errors=0, breaks=0)
    return circuit


def after_fault(circuit: Circuit, fault: Fault, rules: Breaker, now: float) -> Circuit:
    """A request failed: counted, and the circuit opens at the limit, or at once when it was on trial."""
    if circuit.is_open(now):
        return circuit  # sent before it opened, or because nothing else was left
    if circuit.is_on_trial(now):
        return opened(circuit, rules, now)
    errors = circuit.errors + (fault is Fault.SERVER_ERROR)
    breaks = circuit.breaks + (fault is Fault.BREAK)
    counted = replace(circuit, errors=errors, breaks=breaks)
    if 0 < rules.consecutive_5xx <= errors or 0 < rules.consecutive_breaks <= breaks:
        return opened(counted, rules, now)
    return counted


def opened(circuit: Circuit, rules: Breaker, now: float) -> Circuit:
    """The circuit open from `now`: twice as long as before, unless it was well for longer than it had been out."""
    last_s = _length(rules, circuit.ejections)
    was_calm = circuit.open_until is None and now - circuit.closed_at > last_s
    ejections = 1 if was_calm else circuit.ejections + 1
    return Circuit(ejections=ejections, open_until=now + _length(rules, ejections))


def begin_trial(circuit: Circuit, now: float) -> Circuit:
    """A request is sent: on trial, it is the only one until it has ended."""
    return replace(circuit, is_tried=True) if circuit.is_on_trial(now) and not circuit.is_tried else circuit


def end_trial(circuit: Circuit) -> Circuit:
    """The deciding request ended without a word on the replica (its client left): the next one decides."""
    return replace(circuit, is_tried=False) if circuit.is_tried else circuit


def left_out(circuits: Mapping[str, Circuit], healthy: Set[str], rules: Breaker, now: float) -> frozenset[str]:
    """Which of a track's replicas get no requests: the open ones, and those whose trial is under way.

    At most the allowed share of the track, those that open longest first; and of the healthy ones, one always stays.
    """
    wanted = sorted(
        (name for name, circuit in circuits.items() if circuit.is_open(now) or circuit.is_tried),
        key=lambda name: (-(circuits[name].open_until or 0.0), name),
    )
    allowed = max(1, len(circuits) * rules.max_ejected_pct // 100) if rules.max_ejected_pct else 0
    out: set[str] = set()
    for name in wanted:
        if len(out) < allowed and healthy - out - {name}:
            out.add(name)
    return frozenset(out)


def outliers(answered: Mapping[str, tuple[int, int]], rules: Breaker) -> frozenset[str]:
    """Replicas whose success rate lies too far below their siblings' mean. `answered` is name → (good, bad)."""
    if not rules.success_gap_pct:
        return frozenset()
    rates = {
        name: good / (good + bad) * 100 for name, (good, bad) in answered.items() if good + bad >= rules.min_requests
    }
    if len(rates) < 2:
        return frozenset()
    total = sum(rates.values())
    return frozenset(
        name for name, rate in rates.items() if (total - rate) / (len(rates) - 1) - rate >= rules.success_gap_pct
    )


def _length(rules: Breaker, ejections: int) -> float:
    """Seconds the `ejections`-th time in a row lasts. The exponent is bounded: 2.0**1024 is no number."""
    return min(rules.ejection_s * 2.0 ** min(ejections - 1, 60), rules.ejection_max_s) if ejections else 0.0
