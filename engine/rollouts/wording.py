"""The judge's sentences: which guard decided, on what counts, and what is still needed. Pure text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adapters.ports import ArmCounts, Unsafe
from engine.rollouts.checks import MetricFinding
from engine.rollouts.planned import z_critical
from engine.rollouts.verdict import METRICS, JudgePolicy, MetricCheck, Tally

_NOUN = {
    "errors": "errors",
    "slow": "slow requests",
    "quality": "answers that fail a check",
    "cost": "requests above the cost ceiling",
}


def sentence(text: str) -> str:
    """`text` as a sentence: a capital first, a full stop last."""
    text = text.strip()
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")


def percent(share: float) -> str:
    """A share as a percentage of three significant digits at most: `0.4 %`, `12.3 %`."""
    return f"{float(f'{100 * share:.3g}'):g} %"


def failed_sequential(check: MetricCheck) -> str:
    """The canary is worse than stable, or on the 100 % step worse than its objective."""
    if check.route == "planned":
        return (
            f"{_NOUN[check.metric]}: at the planned look the canary was worse than stable (z = {check.z_score:.2f}, "
            f"{z_critical(1 / check.threshold):.2f} is enough); now canary {_counts(check.canary)}, stable "
            f"{_counts(check.stable)}"
        )
    if check.stable_rate is None:
        return (
            f"{_NOUN[check.metric]}: canary {_counts(check.canary)} is above the objective's {percent(check.limit)} "
            f"(e = {_e(check.e_harm)}, {check.threshold:.0f} is enough)"
        )
    return (
        f"{_NOUN[check.metric]}: canary {_counts(check.canary)} is worse than stable {_counts(check.stable)}"
        f"{_effect(check)} (e = {_e(check.e_harm)}, {check.threshold:.0f} is enough)"
    )


def failed_windows(finding: MetricFinding, window_s: float) -> str:
    """A run of bad windows."""
    check = finding.check
    seen = ", ".join(_counts(window) for window in finding.run)
    beside = " and above stable" if check.stable_rate is not None else ""
    return (
        f"{len(finding.run)} bad windows of {window_s:g} s in a row: {_NOUN[check.metric]} {seen}, "
        f"above the objective's {percent(check.limit)}{beside}"
    )


def unsafe(canary: Unsafe, stable: Unsafe) -> str:
    """Safety checks found more in the canary's answers."""
    return (
        f"safety: checks found something in {canary.answers} of the canary's answers, to {canary.callers} callers, and in "
        f"{stable.answers} of stable's"
    )


def shared(findings: Sequence[MetricFinding]) -> str:
    """Both arms miss the objective alike."""
    parts = [
        f"{_NOUN[f.check.metric]} canary {_counts(f.check.canary)}, stable {_counts(f.check.stable)}, "
        f"objective {percent(f.check.limit)}"
        for f in findings
    ]
    return f"both tracks miss the objective and stable is as bad, so the canary is not blamed: {'; '.join(parts)}"


def passed(checks: Sequence[MetricCheck], policy: JudgePolicy) -> str:
    """Each metric with the route it passed by."""
    return "; ".join(_passed(check, policy) for check in checks)


def waiting(findings: Sequence[MetricFinding], policy: JudgePolicy, fresh: float, needs_s: float | None) -> str:
    """What is still needed, and for which metric."""
    canary = findings[0].check.canary
    if canary.requests <= 0:
        parts = ["no canary request counted yet"]
    else:
        parts = [_so_far(finding) for finding in findings if finding.needs_requests != 0]
    if not parts:
        parts = ["no sign of harm"]
    if fresh < policy.min_requests:
        parts.append(f"{fresh:g} of at least {policy.min_requests} canary requests")
    if needs_s is not None:
        parts.append(f"about {duration(needs_s)} more at this traffic")
    return "; ".join(parts)


def expired(max_s: float) -> str:
    """Added to an inconclusive sentence at the step's longest time."""
    return f"; the {duration(max_s)} allowed for this step are over"


def split_note(measured: float | None, configured_pct: int, requests: float) -> str:
    """Says so when the measured split is not the configured one by more than chance and two points."""
    if measured is None:
        return ""
    configured = configured_pct / 100
    chance = 4 * math.sqrt(max(configured * (1 - configured), 1e-4) / max(requests, 1))
    if abs(measured - configured) <= max(0.02, chance):
        return ""
    return f"; the canary gets {percent(measured)} of requests though {configured_pct} % is configured"


def cost_note(stable: ArmCounts, canary: ArmCounts, usd_per_hour: float) -> str:
    """What a request and a thousand tokens cost on average, on both tracks, by the replicas' busy time."""
    parts = []
    for what, of in (("a request", _per_request), ("1,000 tokens", _per_1k_tokens)):
        ours, theirs = of(canary), of(stable)
        if ours is not None:
            beside = f" (stable {_usd(theirs * usd_per_hour / 3600)})" if theirs is not None else ""
            parts.append(f"{what} costs {_usd(ours * usd_per_hour / 3600)}{beside}")
    return f"; {', '.join(parts)}" if parts else ""


def alpha_note(policy: JudgePolicy) -> str:
    """Says how alpha is split where more than errors and time are judged."""
    count = len(policy.metrics)
    return f"; alpha {policy.alpha:g} is split over {count} metrics" if count > len(METRICS) else ""


def _per_request(arm: ArmCounts) -> float | None:
    return arm.busy_s / arm.requests if arm.requests else None


def _per_1k_tokens(arm: ArmCounts) -> float | None:
    return 1000 * arm.busy_s / arm.tokens if arm.tokens else None


def _usd(amount: float) -> str:
    return f"${amount:.3g}"


def power_note(rate: float, ratio: float, seconds: float) -> str:
    """What harm of which size is found when."""
    word = "a doubling" if ratio == 2 else f"{ratio:g} times as many"
    return f"; {word} of stable's {percent(rate)} errors is found in about {duration(seconds)}"


def gap_note(gap_s: float) -> str:
    """Says how much of the step was never counted."""
    return f"; {duration(gap_s)} of the step are missing from the counts" if gap_s >= 1 else ""


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`: for a sentence, not for a clock."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 5400:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def _passed(check: MetricCheck, policy: JudgePolicy) -> str:
    noun, beside = _NOUN[check.metric], ""
    if check.stable_rate is not None:
        beside = f" (stable {_counts(check.stable)}){_effect(check)}"
    if check.route == "below_slo":
        return (
            f"{noun}: canary {_counts(check.canary)}{beside}, at most {percent(check.upper_bound)}, "
            f"below the objective's {percent(check.limit)}"
        )
    return (
        f"{noun}: canary {_counts(check.canary)}{beside}, not {1 + policy.margin:g} times as bad as stable "
        f"(e = {_e(check.e_noninferior)}, {check.threshold:.0f} is enough)"
    )


def _so_far(finding: MetricFinding) -> str:
    check = finding.check
    beside = f", stable {_counts(check.stable)}{_effect(check)}" if check.stable_rate is not None else ""
    text = f"{_NOUN[check.metric]}: canary {_counts(check.canary)}{beside}"
    if check.burst >= 2:
        text += f", about {check.burst:.0f} at a time and counted so"
    if finding.needs_requests is None:
        return f"{text}, and at these rates no number of requests would show it good enough"
    what = {"quality": "checked answers", "cost": "requests with a price"}.get(check.metric, "canary requests")
    return f"{text}, about {finding.needs_requests} more {what} needed"


def _effect(check: MetricCheck) -> str:
    if check.effect is None or check.interval is None:
        return ""
    low, high = check.interval
    return f", difference {100 * check.effect:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"


def _counts(arm: Tally) -> str:
    rate = "" if arm.rate is None else f" ({percent(arm.rate)})"
    return f"{arm.bad:g}/{arm.requests:g}{rate}"


def _e(value: float) -> str:
    return f"{value:.0f}" if 10 <= value < 1e5 else f"{value:.2g}"
