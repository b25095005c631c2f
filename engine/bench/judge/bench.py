"""`airboss bench judge`: how often judges are wrong about a good canary, and how soon they find a bad one.

Thousands of simulated rollouts at 20 requests a second with 10 % on the canary, the same for every judge, each looked at
every minute. Ours is not imitated: its own arithmetic runs over arrays, and `judge()` itself is asked at random looks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from engine.bench.judge import worlds
from engine.bench.judge.ours import Heard, Minutes, disagreements, hear
from engine.bench.judge.rivals import hear_rivals
from engine.bench.judge.worlds import World
from engine.bench.progress import say
from engine.bench.report import Report, Row
from engine.rollouts.bounds import requests_to_pass
from engine.rollouts.verdict import JudgePolicy
from state.config import Slo
from state.policy_config import JudgeConfig

POLICY = JudgePolicy.from_config(JudgeConfig(bad_window=worlds.BAD_WINDOW_S), Slo(availability=99.5))
SEED = 20240229
CHECKED = 60


@dataclass(frozen=True, slots=True)
class Compared:
    """A world, how many runs of it, and what ours must reach: a share of rollbacks, and a median in minutes."""

    world: World
    runs: int
    quick_runs: int
    at_least: float | None = None
    at_most: float | None = None
    median_at_most: float | None = None


COMPARED = (
    Compared(worlds.NULL_DAY, 1000, 100, at_most=0.05),
    Compared(worlds.NULL_SLOW, 400, 40, at_most=0.05),
    Compared(worlds.CLEAR, 4000, 1000, at_least=0.99, median_at_most=6),
    Compared(worlds.DOUBLE, 4000, 1000),
    Compared(worlds.RAMP, 4000, 1000),
    Compared(worlds.HELD, 2000, 500, at_least=0.99),
    Compared(worlds.LATE, 1000, 200, at_least=0.99),
    Compared(worlds.BURSTS, 1000, 200, at_most=0.05),
    Compared(worlds.OUTAGE, 2000, 500, at_most=0.05),
    Compared(worlds.SPLIT, 1000, 200, at_most=0.05),
)
PASSING = (
    World("a canary without an error beside stable without one", 120, (0.0,), stable=0.0),
    World("a canary at 0.4 % beside stable at 0.4 %, 10 %", 480, (0.004,)),
    World("a canary at 0.4 % beside stable at 0.4 %, 50 %", 480, (0.004,), share=0.5),
)
BEYOND = World("a canary at the margin (0.8 beside 0.4 %, twice as bad)", 480, (0.008,))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--seed", type=int, default=SEED, help="Of the random numbers (default %(default)s).")


def measure(options: argparse.Namespace) -> Report:
    """Run every world before every judge."""
    rows, lines = [], []
    for case in COMPARED:
        runs = case.quick_runs if options.quick else case.runs
        say(f"{case.world.name}: {runs} runs")
        ours = hear(case.world, runs, POLICY, options.seed).failed
        rivals = hear_rivals(case.world, runs, options.seed)
        rows += _rows(case, ours, rivals)
        lines.append((case.world.name, *(_cell(found) for found in (ours, *rivals.values()))))
    say("how soon a good canary passes, and whether one beyond the margin does")
    runs = 200 if options.quick else 1000
    for world in PASSING:
        rows += _passing(world, hear(world, runs, POLICY, options.seed))
    beyond = hear(BEYOND, runs, POLICY, options.seed).passed > 0
    rows.append(_share(f"{BEYOND.name}: passes within 8 h", beyond, at_most=0.05))
    rows.append(_own_word(options.seed))
    notes = _matrix(("rolled back (median minute)", "ours", *rivals), lines)
    alpha = f"alpha {POLICY.alpha:g} over {len(POLICY.metrics)} metrics, objective {POLICY.error_limit:.1%} errors"
    return Report(
        "judge", tuple(rows), notes=(f"20 requests/s, 10 % on the canary, a look each minute; {alpha}", *notes, "")
    )


def _rows(case: Compared, ours: Minutes, rivals: dict[str, Minutes]) -> list[Row]:
    name = case.world.name
    rows = [_share(f"{name}: rolled back", ours > 0, at_least=case.at_least, at_most=case.at_most)]
    if case.median_at_most is not None:
        median = _median(ours)
        target = f"ours <= {case.median_at_most:g}"
        rows.append(Row(f"{name}: median", "min", median, target=target, met=median <= case.median_at_most))
    share = float((ours > 0).mean())
    for rival, found in rivals.items():
        other = float((found > 0).mean())
        rows.append(Row(f"{name}: rolled back", "%", 100 * share, 100 * other, rival, share / other if other else None))
    return rows


def _share(
    name: str,
    flags: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
) -> Row:
    share = float(flags.mean())
    span = binomtest(int(flags.sum()), len(flags)).proportion_ci(0.95)
    note = f"{len(flags)} runs, 95 % interval {100 * span.low:.1f} to {100 * span.high:.1f} %"
    if at_least is not None:
        return Row(name, "%", 100 * share, target=f"ours >= {100 * at_least:g}", met=share >= at_least, note=note)
    if at_most is not None:
        return Row(name, "%", 100 * share, target=f"ours <= {100 * at_most:g}", met=share <= at_most, note=note)
    return Row(name, "%", 100 * share, note=note)


def _passing(world: World, heard: Heard) -> list[Row]:
    reached = heard.passed > 0
    needed = float(np.median(heard.requests_to_pass[reached])) if reached.any() else float("nan")
    note = f"canary requests, median; minute {_median(heard.passed):g} at 20 requests/s"
    if world.canary == (0.0,):
        note += f"; {requests_to_pass(POLICY.error_limit, POLICY.metric_alpha)} by arithmetic"
    return [
        _share(f"{world.name}: passes within {world.minutes // 60} h", reached, at_least=0.9),
        Row(f"{world.name}: needed", "requests", needed, note=note),
    ]


def _own_word(seed: int) -> Row:
    wrong = compared = 0
    for world in (worlds.CLEAR, worlds.RAMP, worlds.BURSTS, worlds.OUTAGE, PASSING[2]):
        found = disagreements(world, CHECKED // 5, POLICY, seed)
        wrong, compared = wrong + found[0], compared + found[1]
    note = f"judge() itself asked at {compared} random looks"
    return Row("judge() contradicts the arrays", "looks", wrong, target="ours <= 0", met=wrong == 0, note=note)


def _median(minutes: Minutes) -> float:
    return float(np.median(minutes[minutes > 0])) if (minutes > 0).any() else float("inf")


def _cell(minutes: Minutes) -> str:
    share = 100 * float((minutes > 0).mean())
    return f"{share:.1f} % ({_median(minutes):.0f})" if share else "0 %"


def _matrix(header: tuple[str, ...], lines: list[tuple[str, ...]]) -> list[str]:
    table = [header, *lines]
    widths = [max(len(line[at]) for line in table) for at in range(len(header))]
    lines_of = ((line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])) for line in table)
    return ["", *("  ".join(line) for line in lines_of)]
