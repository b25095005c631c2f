"""`airboss bench rollback`: from the key on the rollback panel to the last request that reaches the bad release."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.bench.programs import Programs
from engine.bench.progress import say
from engine.bench.report import Report, Row, busy_notes, interleaved, limited, not_measured, quantile
from engine.bench.rollback import peers
from engine.bench.rollback.crowd import Crowd
from engine.bench.rollback.deck import BAD, Deck
from engine.bench.rollback.users import RATE, Seen
from state.words import OperationFailed, RolloutState

OURS, LAST = "ours", "last bad request"
TARGET_MS = 100.0
SETTLE_S, AFTER_S = 0.3, 0.7
FIRSTS = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--alone", action="store_true", help="Ours only, without nginx and HAProxy.")


@dataclass(frozen=True, slots=True)
class Switched:
    """One switch: milliseconds from the call to each of its `parts`, and what users saw."""

    parts: dict[str, float]
    seen: Seen


def measure(options: argparse.Namespace) -> Report:
    """Every row."""
    rounds = options.rounds or (10 if options.quick else 100)
    notes = busy_notes()
    with Programs() as programs:
        say("starting an engine with two toy releases")
        deck = Deck(programs)
        sides: dict[str, Callable[[], Switched]] = {OURS: lambda: _roll_back(deck)}
        absent = []
        if not options.alone:
            toys = peers.toys(programs)
            for make, name in ((peers.nginx, peers.NGINX), (peers.haproxy, peers.HAPROXY)):
                proxy = make(programs, toys)
                if proxy is None:
                    absent.append(name)
                else:
                    sides[name] = _switching(proxy)
        say(f"{rounds} switches of each under {RATE:g} requests a second: {', '.join(sides)}")
        found = interleaved(rounds, sides)
        say(f"{FIRSTS} engines killed, and rolled back by the next one's first verb")
        firsts = [_roll_back(deck, is_first=True) for _ in range(FIRSTS)]
    return Report("rollback", (*rows(found, absent), first_row(firsts)), notes=notes)


def _roll_back(deck: Deck, *, is_first: bool = False) -> Switched:
    rollout_id = deck.deploy()
    deck.await_state(rollout_id, RolloutState.STEP_BAKING)
    if is_first:
        deck.restart()
    called, called_at = 0, 0.0

    def switch() -> None:
        nonlocal called, called_at
        called, called_at = time.monotonic_ns(), time.time()
        deck.ask("rollback", f"rollout/{rollout_id}")

    def over() -> None:
        deck.await_state(rollout_id, RolloutState.ROLLED_BACK)

    switched = under_load(deck.port, switch, over)
    (done,) = deck.rows(
        "SELECT created_at, done_at FROM intent WHERE rollout_id = ? AND kind = 'route' ORDER BY id DESC LIMIT 1",
        rollout_id,
    )
    (row,) = deck.rows("SELECT finished_at FROM rollout WHERE id = ?", rollout_id)
    parts = {
        "route wanted": (done["created_at"] - called_at) * 1000,
        "acknowledged": (done["done_at"] - called_at) * 1000,
        "rolled back": (row["finished_at"] - called_at) * 1000,
    }
    return Switched({**switched.parts, **parts}, switched.seen)


def _switching(proxy: peers.Proxy) -> Callable[[], Switched]:
    def turn() -> Switched:
        proxy.half()
        return under_load(proxy.port, proxy.switch, lambda: None)

    return turn


def under_load(port: int, switch: Callable[[], None], over: Callable[[], None]) -> Switched:
    """Switch while users ask, and let them go on until it is `over` and a moment longer."""
    with Crowd(port) as crowd:
        time.sleep(SETTLE_S)
        began = time.monotonic_ns()
        switch()
        answered = time.monotonic_ns()
        over()
        time.sleep(AFTER_S)
        seen = crowd.leave()
    if not any(name == BAD and at < began for name, at in seen.marks):
        raise OperationFailed("no request had reached the bad release before the switch")
    return Switched({"answered": (answered - began) / 1e6, LAST: seen.last_ms(BAD, began)}, seen)


def rows(found: dict[str, list[Switched]], absent: Sequence[str] = ()) -> list[Row]:
    """Ours against its targets, each of the others beside it, then the parts of our way."""
    ours = found[OURS]
    made: list[Row] = []
    for q in (0.5, 0.99):
        mine = _last_ms(ours, q)
        note = f"from the call to its arrival; {len(ours)} switches under {RATE:g} requests/s"
        name = f"last bad request p{100 * q:g}"
        made.append(limited(name, "ms", [mine], at_most=TARGET_MS if q > 0.5 else None, note=note))
        made += [_beside(name, "ms", mine, other, _last_ms(switches, q)) for other, switches in _others(found)]
    for what, count in (("failed requests", _failed), ("broken streams", _broken)):
        bad, note = count(ours)
        made.append(limited(what, "count", [bad], at_most=0.0, note=note))
        made += [_beside(what, "count", bad, other, *count(switches)) for other, switches in _others(found)]
    for part in ours[0].parts:
        values = [one.parts[part] for one in ours]
        made.append(limited(f"part: {part}", "ms", values, note=f"median; p99 {quantile(values, 0.99):.1f} ms"))
    missing = "not installed: apt-get install nginx haproxy"
    return [*made, *(not_measured("last bad request p99", "ms", name, missing) for name in absent)]


def first_row(firsts: Sequence[Switched]) -> Row:
    """The slowest of the rollbacks that were the first thing an engine was asked for."""
    values = [one.parts[LAST] for one in firsts]
    note = f"an engine killed beside a canary at half, the next one's first verb; median {quantile(values, 0.5):.1f} ms"
    return limited(
        f"last bad request, slowest first of {len(firsts)} engines", "ms", [max(values)], at_most=TARGET_MS, note=note
    )


def _others(found: dict[str, list[Switched]]) -> list[tuple[str, list[Switched]]]:
    return [(name, switches) for name, switches in found.items() if name != OURS]


def _last_ms(switches: Sequence[Switched], q: float) -> float:
    return quantile([one.parts[LAST] for one in switches], q)


def _failed(switches: Sequence[Switched]) -> tuple[float, str]:
    what: Counter[str] = Counter()
    for one in switches:
        what.update(one.seen.errors)
    said = ", ".join(f"{error}: {count}" for error, count in sorted(what.items()))
    asked = sum(len(one.seen.marks) for one in switches)
    return float(sum(one.seen.failed for one in switches)), f"of {asked}" + (f" ({said})" if said else "")


def _broken(switches: Sequence[Switched]) -> tuple[float, str]:
    return float(sum(one.seen.broken for one in switches)), f"of {sum(one.seen.streams for one in switches)}"


def _beside(name: str, unit: str, ours: float, other_name: str, other: float, note: str = "") -> Row:
    return Row(name, unit, ours, other, other_name, ours / other if other else None, note=note)
