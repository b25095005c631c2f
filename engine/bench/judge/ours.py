"""Our judge over thousands of runs at once: the same functions that `judge()` calls, looked at every minute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adapters.ports import ArmCounts, ArmEvidence, Interval
from engine.bench.judge.worlds import BIN_S, BINS_A_MINUTE, World
from engine.rollouts import statistics
from engine.rollouts.checks import Bins, Said, decide, weigh
from engine.rollouts.guardrails import bad_runs, is_common_mode, shared_outages
from engine.rollouts.judge import JudgeInput, judge
from engine.rollouts.statistics import HARM_RATIOS, RESTART_S, Split
from engine.rollouts.verdict import JudgePolicy
from state.words import VerdictKind

Minutes = npt.NDArray[np.int64]
BLOCK = round(RESTART_S / BIN_S)
BINS_A_WINDOW = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """For each run the minute of the first FAIL and of the first PASS (0: never), and the canary's requests by then."""

    failed: Minutes
    passed: Minutes
    requests_to_pass: npt.NDArray[np.float64]


def hear(world: World, runs: int, policy: JudgePolicy, seed: int) -> Heard:
    """What one metric of our judge says of `runs` runs, going on after every answer."""
    parts = [_heard(split, policy, world.metric) for split in world.draw(runs, seed)]
    return Heard(
        np.concatenate([part.failed for part in parts]),
        np.concatenate([part.passed for part in parts]),
        np.concatenate([part.requests_to_pass for part in parts]),
    )


def first_minute(flags: npt.NDArray[np.bool_]) -> Minutes:
    """For each run the first minute that is true, from 1; 0 where none is."""
    return np.where(flags.any(axis=1), flags.argmax(axis=1) + 1, 0)


def said_of(split: Split, policy: JudgePolicy, metric: str) -> Said:
    """What the metric says of each run (first axis) at each full minute (last axis)."""
    limit, alpha = policy.limit_of(metric), policy.metric_alpha
    looks = np.arange(BINS_A_MINUTE - 1, split.canary_bad.shape[-1], BINS_A_MINUTE)
    better = statistics.split_logs(split, statistics.better_ratios(policy.margin), 1 + policy.margin)
    bins = Bins(split, statistics.split_logs(split, HARM_RATIOS), better, is_coarse=False)
    fields = (split.canary_bad, split.canary_requests, split.stable_bad, split.stable_requests)
    so_far = Split(*(np.cumsum(field, axis=-1)[..., looks] for field in fields))
    windows = Split(*(field.reshape(len(field), -1, BINS_A_WINDOW).sum(axis=-1) for field in fields))
    ends = bins.bursts()[:, BINS_A_WINDOW - 1 :: BINS_A_WINDOW]
    runs = bad_runs(windows, ends, limit, alpha, has_stable_arm=True)
    newest = (looks + 1) // BINS_A_WINDOW - 1
    return decide(
        weigh(bins, [int(look) for look in looks], BLOCK, limit, alpha),
        alpha,
        shared=is_common_mode(so_far, limit),
        outage=shared_outages(windows, limit)[:, newest],
        run=np.logical_or.accumulate(runs, axis=-1)[:, newest],
    )


def disagreements(world: World, runs: int, policy: JudgePolicy, seed: int) -> tuple[int, int]:
    """How often the whole `judge()` contradicts the arrays at looks chosen at random; and how many were compared."""
    chance = np.random.default_rng(seed)
    wrong = compared = 0
    for split in world.draw(runs, seed):
        said = said_of(split, policy, "errors")
        for run in range(len(split.canary_bad)):
            minute = int(chance.integers(world.minutes))
            kinds = _judged(split, run, (minute + 1) * BINS_A_MINUTE, policy)
            fast = (bool(said.fails[run, minute]), bool(said.passes[run, minute]))
            wrong += kinds != fast
            compared += 1
    return wrong, compared


def _judged(split: Split, run: int, bins: int, policy: JudgePolicy) -> tuple[bool, bool]:
    """Whether `judge()` itself fails, and passes, the errors of one run seen that far."""
    intervals = tuple(
        Interval(
            at * BIN_S,
            (at + 1) * BIN_S,
            ArmCounts(int(split.stable_requests[run, at]), int(split.stable_bad[run, at])),
            ArmCounts(int(split.canary_requests[run, at]), int(split.canary_bad[run, at])),
        )
        for at in range(bins)
    )
    check = judge(JudgeInput(ArmEvidence(intervals, 0.0, 1.0), policy, bins * BIN_S, True, None, 10)).checks[0]
    return check.kind is VerdictKind.FAIL, check.kind is VerdictKind.PASS


def _heard(split: Split, policy: JudgePolicy, metric: str) -> Heard:
    said = said_of(split, policy, metric)
    passed = first_minute(said.passes)
    requests = np.cumsum(split.canary_requests, axis=-1)[:, BINS_A_MINUTE - 1 :: BINS_A_MINUTE]
    return Heard(first_minute(said.fails), passed, requests[np.arange(len(passed)), np.maximum(passed, 1) - 1])
