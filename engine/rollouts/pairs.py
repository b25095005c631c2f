"""Copies beside the answers users got: pairs in, a verdict out. Pure: no clock, no I/O.

Each pair is the same request, so its two halves are two arms of equal size: errors and slow answers are judged by the same
tests as a canary's, valid at every look. Text and length have limits of their own, where the policy names them.
"""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.ports import ArmCounts, ArmEvidence, Interval
from engine.rollouts import statistics
from engine.rollouts.bounds import upper_bound
from engine.rollouts.judge import judge
from engine.rollouts.verdict import METRICS, JudgeInput, JudgePolicy, MetricCheck, Tally, Verdict
from state.policy_config import ShadowConfig
from state.words import NoDataCause, VerdictKind

COPY_ANSWERED = ("ok", "error")
MOST_PAIRS = 20_000
"""The newest that are kept and judged, so that a look at a shadow of days costs no more than one of an hour."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One request: what its user got, and what the shadow said to the copy. Latencies in ms; no text."""

    at: float
    code: int
    latency_ms: float
    length: int
    result: str
    shadow_code: int
    shadow_latency_ms: float
    shadow_length: int
    distance: float | None

    @property
    def is_bad(self) -> bool:
        """The user's own answer was a server error."""
        return self.code >= 500

    @property
    def is_shadow_bad(self) -> bool:
        """The shadow failed, or refused what the user was given."""
        return self.result not in COPY_ANSWERED or self.shadow_code >= 500 or (self.code < 400 <= self.shadow_code)


@dataclass(frozen=True, slots=True)
class ShadowLimits:
    """What of the copies is judged beside errors and latency. Percents of pairs; None is looked at and not judged."""

    min_pairs: int | None = None
    max_different_pct: float | None = None
    different_from: float = 0.5
    max_length_off_pct: float | None = None
    length_factor: float = 2.0

    @classmethod
    def from_policy(cls, policy: Mapping[str, Any]) -> ShadowLimits:
        """The limits that a frozen policy keeps."""
        kept = ShadowConfig.model_validate(policy.get("shadow") or {})
        return cls(kept.min_pairs, kept.max_different, kept.different_from, kept.max_length_off, kept.length_factor)


def judge_pairs(
    pairs: Sequence[Pair],
    slow_ms: float,
    policy: JudgePolicy,
    limits: ShadowLimits,
    elapsed_s: float,
    now: float,
    crash_loop: str | None,
) -> Verdict:
    """What the copies allow one to say. No pairs is NO_DATA, whatever the traffic was."""
    more = _limited(pairs, limits)
    policy = replace(
        policy,
        min_requests=min(limits.min_pairs or policy.min_requests, MOST_PAIRS),
        alpha=policy.alpha * len(METRICS) / (len(METRICS) + len(more)),
    )
    age_s = max(0.0, now - pairs[-1].at) if pairs else None
    verdict = judge(
        JudgeInput(
            evidence=ArmEvidence(intervals_of(pairs, slow_ms), 0.0, age_s),
            policy=policy,
            elapsed_s=elapsed_s,
            has_stable_arm=True,
            crash_loop=crash_loop,
            configured_weight_pct=50,
        )
    )
    if verdict.kind is VerdictKind.NO_DATA and verdict.cause is NoDataCause.SERIES_MISSING:
        return replace(verdict, sentence=f"No request was copied and answered twice in {elapsed_s:.0f} s.")
    checks = tuple(_check(metric, bad, asked, limit, policy.metric_alpha) for metric, bad, asked, limit in more)
    return _joined(verdict, checks, describe(pairs))


def intervals_of(pairs: Sequence[Pair], slow_ms: float) -> tuple[Interval, ...]:
    """The pairs by second: the users' answers as the stable arm, the shadow's as the canary's."""
    seconds: dict[int, tuple[ArmCounts, ArmCounts]] = {}
    for pair in pairs:
        second = math.floor(pair.at)
        users, shadow = seconds.get(second, (ArmCounts(), ArmCounts()))
        slow = pair.result not in COPY_ANSWERED or pair.shadow_latency_ms > slow_ms
        seconds[second] = (
            users + ArmCounts(1, int(pair.is_bad), int(pair.latency_ms > slow_ms)),
            shadow + ArmCounts(1, int(pair.is_shadow_bad), int(slow)),
        )
    return tuple(Interval(float(at), float(at + 1), *seconds[at]) for at in sorted(seconds))


def describe(pairs: Sequence[Pair]) -> str:
    """The pairs in words: how many, and how the shadow's answers differ."""
    both = [p for p in pairs if p.result == "ok" and p.code < 400 and p.shadow_code < 400]
    if not both:
        return f"{len(pairs)} pairs"
    said = [
        f"{len(pairs)} pairs",
        f"median latency {plain.median(p.shadow_latency_ms for p in both):.0f} ms beside "
        f"{plain.median(p.latency_ms for p in both):.0f} ms",
    ]
    lengths = [p.shadow_length / p.length for p in both if p.length]
    if lengths:
        said.append(f"median length {plain.median(lengths):.2f} of the users'")
    distances = [p.distance for p in both if p.distance is not None]
    if distances:
        said.append(f"mean text distance {plain.fmean(distances):.2f}")
    return ", ".join(said)


def _limited(pairs: Sequence[Pair], limits: ShadowLimits) -> list[tuple[str, int, int, float]]:
    """(metric, bad, compared, limit) of each further limit that the policy names."""
    found = []
    if limits.max_different_pct is not None:
        seen = [p.distance for p in pairs if p.distance is not None]
        found.append(("text", sum(d > limits.different_from for d in seen), len(seen), limits.max_different_pct / 100))
    if limits.max_length_off_pct is not None:
        both = [p for p in pairs if p.code < 400 and p.result == "ok" and p.length]
        off = sum(not 1 / limits.length_factor <= p.shadow_length / p.length <= limits.length_factor for p in both)
        found.append(("length", off, len(both), limits.max_length_off_pct / 100))
    return found


def _check(metric: str, bad: int, asked: int, limit: float, alpha: float) -> MetricCheck:
    """A share of pairs against its limit, by the tests that judge a canary without a stable arm."""
    harm = float(statistics.log_e(statistics.own_above_logs(bad, asked, limit)))
    below = float(statistics.log_e(statistics.own_below_logs(bad, asked, limit)))
    enough = -math.log(alpha)
    kind, route = VerdictKind.INCONCLUSIVE, ""
    if harm >= enough:
        kind, route = VerdictKind.FAIL, "worse"
    elif below >= enough:
        kind, route = VerdictKind.PASS, "below_slo"
    tally = Tally(asked, bad)
    return MetricCheck(
        metric=metric,
        kind=kind,
        route=route,
        stable=Tally(),
        canary=tally,
        stable_rate=None,
        canary_rate=tally.rate,
        effect=None,
        interval=None,
        upper_bound=upper_bound(bad, asked, alpha),
        e_harm=statistics.e_value(harm),
        e_noninferior=1.0,
        e_below_slo=statistics.e_value(below),
        threshold=1 / alpha,
        limit=limit,
        burst=1.0,
        z_score=None,
    )


def _joined(verdict: Verdict, checks: tuple[MetricCheck, ...], said: str) -> Verdict:
    """The verdict on errors and latency with the further checks: the worst decides, and all must pass."""
    text = verdict.sentence.replace("canary", "shadow").replace(" stable ", " the users' answers ")
    kind, guard = verdict.kind, verdict.guard
    failed = next((c for c in checks if c.kind is VerdictKind.FAIL), None)
    if kind is not VerdictKind.NO_DATA and kind is not VerdictKind.FAIL and failed is not None:
        kind, guard = VerdictKind.FAIL, failed.metric
        text = f"The shadow's {_over(failed)}."
    elif kind is VerdictKind.PASS and (open_ := [c for c in checks if c.kind is not VerdictKind.PASS]):
        kind, guard = VerdictKind.INCONCLUSIVE, ""
        text = f"Errors and latency passed; the shadow's {_over(open_[0])}, which is not yet settled."
    return replace(verdict, kind=kind, guard=guard, sentence=f"{text} {said}.", checks=(*verdict.checks, *checks))


def _over(check: MetricCheck) -> str:
    share = 0.0 if check.canary_rate is None else check.canary_rate
    return f"{check.metric} is off in {share:.1%} of {check.canary.requests:.0f} pairs (limit {check.limit:.0%})"
