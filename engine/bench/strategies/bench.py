"""`airboss bench strategies`: what users notice of a move to another release, by each strategy in turn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass

from engine.bench.programs import Programs
from engine.bench.progress import say
from engine.bench.report import Report, Row, busy_notes, limited, quantile
from engine.bench.rollback.crowd import Crowd
from engine.bench.rollback.deck import BAD, GOOD, Deck
from engine.bench.rollback.users import RATE, Seen
from state.words import OperationFailed, RolloutState, Strategy

REQUESTS, QUICK_REQUESTS = 10_000, 2_000
CALM_SHARE = 0.2
MOVE_S = 300.0
STEPS = {Strategy.BLUE_GREEN: ("pause=1s",)}
"""Steps of the bench's own. A blue-green without any shows its preview for a minute: that is waiting for people, not moving."""
POLICY = """\
[policy.bench]
steps = [{ weight = 25 }, { weight = 50 }, { weight = 100 }]
judge = { min_requests = 20, max_minutes = 30 }
approvals = 0
warm_hold = "0s"
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--requests", type=int, help=f"Of each move (default {REQUESTS}, with --quick {QUICK_REQUESTS})."
    )
    parser.add_argument("--only", type=Strategy, choices=STRATEGIES, action="append", help="These strategies alone.")


@dataclass(frozen=True, slots=True)
class Moved:
    """One move by one strategy: how users were answered before it and while it went on."""

    calm_ms: Sequence[float]
    moving_ms: Sequence[float]
    asked: int
    """All requests, those after the move too."""
    failed: int
    errors: str
    seconds: float
    """From the deployment to its completion."""


def measure(options: argparse.Namespace) -> Report:
    """Two rows a strategy."""
    requests = options.requests or (QUICK_REQUESTS if options.quick else REQUESTS)
    notes, rows = busy_notes(), []
    with Programs() as programs:
        say("starting an engine with two toy releases")
        deck = Deck(programs, POLICY)
        live = GOOD
        for turn in range(options.rounds or 1):
            for strategy in options.only or STRATEGIES:
                to = BAD if live == GOOD else GOOD
                say(f"{strategy}: from {live} to {to} under {RATE:g} requests a second")
                moved = _move(deck, strategy, to, requests)
                live = deck.live
                rows += rows_of(strategy, moved, turn)
    return Report("strategies", tuple(rows), notes=notes)


def _move(deck: Deck, strategy: Strategy, to: str, requests: int) -> Moved:
    with Crowd(deck.port, stream_every=0) as crowd:
        began = time.monotonic()
        time.sleep(CALM_SHARE * requests / RATE)
        moving = time.monotonic_ns()
        rollout_id = deck.deploy(to, strategy=strategy.value, steps=STEPS.get(strategy, ()))
        state = deck.await_state(rollout_id, *_ENDS, timeout_s=MOVE_S)
        moved = time.monotonic_ns()
        if state not in _MOVED:
            (row,) = deck.rows("SELECT message FROM rollout WHERE id = ?", rollout_id)
            raise OperationFailed(f"{strategy}: the move ended as {state}: {row['message']}")
        time.sleep(max(0.0, began + requests / RATE - time.monotonic()))
        seen = crowd.leave()
    if state is RolloutState.AWAITING_PROMOTION:
        deck.ask("rollback", f"rollout/{rollout_id}")
        deck.await_state(rollout_id, RolloutState.ROLLED_BACK)
    return moved_of(seen, moving, moved)


STRATEGIES = (Strategy.CANARY, Strategy.BLUE_GREEN, Strategy.ROLLING, Strategy.SHADOW)
_MOVED = (RolloutState.COMPLETED, RolloutState.AWAITING_PROMOTION)
"""A shadow has shown what it had to show once it waits for somebody to promote it."""
_ENDS = tuple(s for s in RolloutState if s.is_terminal or s in (*_MOVED, RolloutState.PAUSED))


def moved_of(seen: Seen, moving: int, moved: int) -> Moved:
    return Moved(
        calm_ms=[ms for at, ms in seen.took if at < moving],
        moving_ms=[ms for at, ms in seen.took if moving <= at < moved],
        asked=len(seen.took) + seen.failed,
        failed=seen.failed,
        errors=", ".join(f"{what}: {count}" for what, count in sorted(seen.errors.items())),
        seconds=(moved - moving) / 1e9,
    )


def rows_of(strategy: Strategy, moved: Moved, turn: int = 0) -> list[Row]:
    """What one move has shown: p99 beside the calm before it, and errors, of which there may be none."""
    name = strategy.value + (f" ({turn + 1})" if turn else "")
    calm, moving = quantile(moved.calm_ms, 0.99), quantile(moved.moving_ms, 0.99)
    note = f"{len(moved.moving_ms)} requests in {moved.seconds:.1f} s from deploy to completed"
    errors = f"of {moved.asked} requests" + (f" ({moved.errors})" if moved.errors else "")
    return [
        Row(f"{name}, p99", "ms", moving, calm, "before it", moving / calm if calm else None, note=note),
        limited(f"{name}, errors", "count", [float(moved.failed)], at_most=0.0, note=errors),
    ]
