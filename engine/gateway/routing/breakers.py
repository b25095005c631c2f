"""The circuits of this worker's replicas, by track: what requests show is put in, who is left out comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from dataclasses import dataclass, field

from adapters.ports import Route
from adapters.routing import PLAIN, Breaker
from engine.gateway.logs import log
from engine.gateway.routing.circuit import (
    CLOSED,
    Circuit,
    Fault,
    after_fault,
    after_success,
    begin_trial,
    end_trial,
    left_out,
    opened,
    outliers,
)


@dataclass(slots=True, eq=False)
class Group:
    """The replicas of one track of one route: siblings, compared with each other."""

    rules: Breaker
    members: tuple[str, ...]
    window_ends: float
    answered: dict[str, list[int]] = field(default_factory=dict)
    """name → [good, bad] in the open window."""


class Breakers:
    """`opened` counts how often a circuit opened, by cause."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.opened: dict[str, int] = {Fault.SERVER_ERROR: 0, Fault.BREAK: 0, "outlier": 0}
        self._clock = clock
        self._groups: dict[str, Group] = {}
        self._circuits: dict[str, Circuit] = {}
        """Only what is not plainly closed: a worker in good order looks into an empty dictionary."""

    def arrange(self, routes: Iterable[Route]) -> None:
        """Take the tracks of a new table. What is known of replicas that stay is kept."""
        groups: dict[str, Group] = {}
        for route in routes:
            rules = (route.routing or PLAIN).breaker
            for backend in route.backends:
                members = tuple(spawn_id for spawn_id, _ in backend.replicas)
                known = self._groups.get(members[0]) if members else None
                if known is None or known.members != members or known.rules != rules:
                    known = Group(rules, members, self._clock() + rules.interval_s, {m: [0, 0] for m in members})
                groups.update(dict.fromkeys(members, known))
        self._groups = groups
        self._circuits = {name: circuit for name, circuit in self._circuits.items() if name in groups}

    def circuit(self, name: str) -> Circuit:
        """What is known of a replica."""
        return self._circuits.get(name, CLOSED)

    def siblings(self, name: str) -> tuple[str, ...]:
        """The replica's whole track, itself included."""
        group = self._groups.get(name)
        return group.members if group is not None else (name,)

    def is_open(self, name: str) -> bool:
        """Its circuit is open, whether or not it could be left out."""
        circuit = self._circuits.get(name)
        return circuit is not None and circuit.is_open(self._clock())

    def is_disturbed(self, name: str) -> bool:
        """Time alone may change whether this replica's track leaves somebody out."""
        return bool(self._circuits) and any(m in self._circuits for m in self.siblings(name))

    def out(self, name: str, healthy: Set[str]) -> frozenset[str]:
        """Who of the replica's track is left out now."""
        group = self._groups.get(name)
        if group is None or not self.is_disturbed(name):
            return frozenset()
        circuits = {member: self.circuit(member) for member in group.members}
        return left_out(circuits, healthy & set(group.members), group.rules, self._clock())

    def began(self, name: str) -> bool:
        """A request goes to the replica. True when that changes who is left out."""
        circuit = self._circuits.get(name)
        if circuit is None:
            return False
        return self._set(name, begin_trial(circuit, self._clock()))

    def ended(self, name: str) -> bool:
        """The request ended. True when that changes who may be left out."""
        circuit = self._circuits.get(name)
        return circuit is not None and self._set(name, end_trial(circuit))

    def succeeded(self, name: str) -> bool:
        """The replica answered as it should. True when that may change who is left out."""
        group = self._groups.get(name)
        if group is None:
            return False
        group.answered[name][0] += 1
        circuit = self._circuits.get(name)
        changed = circuit is not None and self._set(name, after_success(circuit, self._clock()))
        return self._compare(group) or changed

    def failed(self, name: str, fault: Fault) -> bool:
        """The replica failed a request. True when that may change who is left out."""
        group = self._groups.get(name)
        if group is None:
            return False
        group.answered[name][1] += 1
        before, now = self.circuit(name), self._clock()
        after = after_fault(before, fault, group.rules, now)
        if after.is_open(now) and not before.is_open(now):
            self._note(name, fault, after)
        changed = self._set(name, after)
        return self._compare(group) or changed

    def _compare(self, group: Group) -> bool:
        """At the end of a window, leave out who did much worse than its siblings."""
        now = self._clock()
        if now < group.window_ends:
            return False
        answered = {name: (good, bad) for name, (good, bad) in group.answered.items()}
        group.window_ends = now + group.rules.interval_s
        group.answered = {name: [0, 0] for name in group.members}
        found = [n for n in outliers(answered, group.rules) if self.circuit(n).open_until is None]
        for name in found:
            self._circuits[name] = opened(self.circuit(name), group.rules, now)
            self._note(name, "outlier", self._circuits[name])
        return bool(found)

    def _set(self, name: str, circuit: Circuit) -> bool:
        if self.circuit(name) == circuit:
            return False
        self._circuits[name] = circuit
        return True

    def _note(self, name: str, cause: str, circuit: Circuit) -> None:
        self.opened[cause] += 1
        for_s = (circuit.open_until or 0.0) - self._clock()
        log("circuit_opened", replica=name, cause=str(cause), seconds=round(for_s, 1), times=circuit.ejections)
