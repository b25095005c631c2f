"""Seeded Monte-Carlo: how often the judge is wrong when looked at all the time, and how fast it is right."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from adapters.ports import ArmCounts, ArmEvidence, Interval
from engine.bench.judge.ours import disagreements, hear
from engine.bench.judge.worlds import World
from engine.rollouts.judge import JudgeInput, JudgePolicy, judge
from engine.rollouts.statistics import HARM_RATIOS, Split, log_e, split_logs

Counts = npt.NDArray[np.int64]
ALPHA = 0.05
STRICT = JudgePolicy(1.0, ALPHA, 200, 1800, 60, 0.005, 0.05, ("crash_loop", "bad_windows"), 10)
LOOSE = JudgePolicy(1.0, ALPHA, 200, 1800, 60, 0.05, 0.05, ("crash_loop", "bad_windows"), 10)


def harm_e_values(canary: Counts, stable: Counts, share: float) -> npt.NDArray[np.float64]:
    """The plain process of many runs at every look at once; rows are runs, columns are intervals."""
    n_canary, n_stable = np.full(canary.shape, share), np.full(canary.shape, 1 - share)
    logs = split_logs(Split(canary * 1.0, n_canary, stable * 1.0, n_stable), HARM_RATIOS)
    return np.asarray(np.exp(log_e(np.cumsum(logs, axis=-1))))


def ever(e_values: npt.NDArray[np.float64], alpha: float) -> float:
    return float((e_values >= 1 / alpha).any(axis=1).mean())


def outcomes(
    canary_rate: float, stable_rate: float, *, policy: JudgePolicy, share: float = 0.25, seconds: int = 300,
    step_s: int = 1, look_s: int = 20, runs: int = 25, burst: int = 1, rps: int = 20, stop: str = "FAIL"
) -> tuple[Counter[str], float]:  # fmt: skip
    """What `judge` said first of FAIL, `stop`, or common mode, looked at every `look_s`; the median time it took."""
    chance = np.random.default_rng(20240229)
    said: Counter[str] = Counter()
    times = []
    for _ in range(runs):
        steps = seconds // step_s
        n_canary = chance.binomial(rps * step_s, share, steps)
        n_stable = rps * step_s - n_canary
        canary = np.minimum(n_canary, chance.binomial(n_canary, canary_rate / burst) * burst)
        stable = np.minimum(n_stable, chance.binomial(n_stable, stable_rate / burst) * burst)
        intervals = tuple(
            Interval(
                float(i * step_s),
                float((i + 1) * step_s),
                ArmCounts(int(n_stable[i]), int(stable[i])),
                ArmCounts(int(n_canary[i]), int(canary[i])),
            )
            for i in range(steps)
        )
        word = "nothing"
        for seen in range(look_s, seconds + 1, look_s):
            evidence = ArmEvidence(intervals[: seen // step_s], 0.0, 1.0)
            verdict = judge(JudgeInput(evidence, policy, float(seen), share < 1, None, round(100 * share)))
            kind = "common" if verdict.common_mode else verdict.kind.value
            if kind in ("FAIL", "common", stop):
                word = kind
                times.append(seen)
                break
        said[word] += 1
    return said, float(np.median(times)) if times else math.inf


def test_a_good_canary_is_called_worse_at_most_alpha_of_the_time_however_often_one_looks() -> None:
    chance = np.random.default_rng(2)
    canary, stable = chance.binomial(120, 0.004, (4000, 300)), chance.binomial(1080, 0.004, (4000, 300))
    assert ever(harm_e_values(canary, stable, 0.1), ALPHA) <= ALPHA
    often = chance.binomial(5, 0.3, (4000, 300)), chance.binomial(15, 0.3, (4000, 300))
    assert ever(harm_e_values(*often, 0.25), ALPHA) <= ALPHA


def test_the_measured_split_keeps_the_promise_where_the_configured_one_breaks_it() -> None:
    chance = np.random.default_rng(3)
    canary, stable = chance.binomial(180, 0.004, (4000, 30)), chance.binomial(1020, 0.004, (4000, 30))
    assert ever(harm_e_values(canary, stable, 0.15), ALPHA) <= ALPHA
    assert ever(harm_e_values(canary, stable, 0.10), ALPHA) > 0.2


@pytest.mark.parametrize(
    ("rate", "policy", "together"), [(0.004, STRICT, 1), (0.004, STRICT, 5), (0.04, LOOSE, 1), (0.04, LOOSE, 5)]
)
def test_a_good_canary_is_rarely_failed_in_four_hours_even_near_its_objective_or_in_bursts(
    rate: float, policy: JudgePolicy, together: int
) -> None:
    world = World("", 240, (rate,), stable=rate, share=0.25, together=together)
    failed = hear(world, 200, policy, seed=5).failed > 0
    # Each metric may spend half of alpha: five of 200 expected at the very most, eleven are beyond chance.
    assert failed.sum() <= 10


def test_the_arrays_of_the_benchmark_say_what_the_judge_says() -> None:
    for world in (World("", 30, (0.004, 0.008, 0.015)), World("", 30, (0.004,), together=5), World("", 40, (0.0,))):
        wrong, compared = disagreements(world, 8, STRICT, seed=6)
        assert (wrong, compared) == (0, 8)


def test_harm_found_and_not_found_as_the_benchmark_promises() -> None:
    clear = hear(World("", 30, (0.015,)), 500, STRICT, seed=7).failed
    assert (clear > 0).mean() >= 0.99 and np.median(clear[clear > 0]) <= 6
    ramp = hear(World("", 90, (0.004, 0.008, *(7 * (0.015,)))), 200, STRICT, seed=8).failed
    assert (ramp > 0).mean() >= 0.99


def test_a_good_canary_passes_and_one_at_the_margin_rarely_does() -> None:
    clean = hear(World("", 30, (0.0,), stable=0.0), 50, STRICT, seed=9)
    assert (clean.passed > 0).all()
    equal = hear(World("", 240, (0.004,), share=0.5), 100, STRICT, seed=10)
    assert (equal.passed > 0).mean() >= 0.95
    doubled = hear(World("", 240, (0.008,)), 200, STRICT, seed=11)
    assert (doubled.passed > 0).sum() <= 10


def test_a_canary_at_its_objective_alone_is_rarely_failed() -> None:
    said, _ = outcomes(0.045, 0.0, policy=LOOSE, share=1.0)
    assert said["FAIL"] <= 4


def test_an_injected_fault_is_found_within_seconds() -> None:
    said, median_s = outcomes(0.3, 0.0, policy=LOOSE, seconds=60, look_s=1, stop="PASS", runs=10)
    assert said["FAIL"] == 10
    assert median_s <= 15


def test_an_outage_of_both_tracks_is_not_blamed_on_the_canary() -> None:
    said, _ = outcomes(0.2, 0.2, policy=LOOSE, share=0.1, look_s=10, stop="PASS")
    assert said["common"] >= 23 and said["FAIL"] <= 2 and said["PASS"] == 0


def test_a_bad_canary_rarely_passes() -> None:
    said, _ = outcomes(0.06, 0.01, policy=LOOSE, look_s=5, seconds=120, stop="PASS")
    assert said["PASS"] <= 3
