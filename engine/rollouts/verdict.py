"""What the judge is given and what it says: frozen values, and their JSON. No decisions."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from adapters.ports import ArmEvidence
from state.config import Slo
from state.measures_config import CostConfig, QualityConfig
from state.policy_config import JudgeConfig
from state.words import NoDataCause, VerdictKind

METRICS = ("errors", "slow")
"""What is judged of every service, unless a policy leaves latency out."""


@dataclass(frozen=True, slots=True)
class JudgePolicy:
    """The numbers a step is judged by. Limits are shares 0..1; `alpha` is for the whole step."""

    margin: float
    alpha: float
    min_requests: int
    max_s: float
    no_data_after_s: float
    error_limit: float
    slow_limit: float
    guardrails: tuple[str, ...]
    bad_window_s: float
    metrics: tuple[str, ...] = METRICS
    """What is judged: alpha is split evenly over these."""
    planned_requests: int = 0
    """Harm is looked for once, by a z-test at so many canary requests; 0: at every look, by the sequential test."""
    quality_limit: float = 1.0
    cost_limit: float = 1.0
    usd_per_hour: float = 0.0

    @classmethod
    def from_config(
        cls,
        judge: JudgeConfig,
        slo: Slo,
        quality: QualityConfig | None = None,
        cost: CostConfig | None = None,
    ) -> JudgePolicy:
        """The policy that `airboss.toml` states for a service."""
        quality, cost = quality or QualityConfig(), cost or CostConfig()
        more = (
            ("slow", judge.latency),
            ("quality", judge.quality and quality.check),
            ("cost", judge.cost and cost.has_ceiling),
        )
        return cls(
            metrics=("errors", *(name for name, is_on in more if is_on)),
            quality_limit=quality.limit,
            cost_limit=cost.limit,
            usd_per_hour=cost.usd_per_hour,
            margin=judge.margin,
            alpha=judge.alpha,
            min_requests=max(judge.min_requests, judge.planned_requests),
            planned_requests=judge.planned_requests,
            max_s=judge.max_minutes * 60,
            no_data_after_s=judge.no_data_after,
            error_limit=slo.error_limit,
            slow_limit=slo.slow_limit,
            guardrails=tuple(judge.guardrails),
            bad_window_s=judge.bad_window,
        )

    @property
    def metric_alpha(self) -> float:
        """The share of alpha each metric may spend."""
        return self.alpha / len(self.metrics)

    def limit_of(self, metric: str) -> float:
        """The largest bad share the objective allows for a metric."""
        limits = {"errors": self.error_limit, "slow": self.slow_limit, "quality": self.quality_limit}
        return limits.get(metric, self.cost_limit)


@dataclass(frozen=True, slots=True)
class JudgeInput:
    """Everything one verdict depends on. `has_stable_arm` is False on the 100 % step."""

    evidence: ArmEvidence
    policy: JudgePolicy
    elapsed_s: float
    has_stable_arm: bool
    crash_loop: str | None
    configured_weight_pct: int


@dataclass(frozen=True, slots=True)
class Tally:
    """One arm's requests that count, and how many of them were bad in the metric's sense."""

    requests: float = 0
    bad: float = 0

    @property
    def rate(self) -> float | None:
        """Share of bad requests; None without requests."""
        return self.bad / self.requests if self.requests > 0 else None


@dataclass(frozen=True, slots=True)
class MetricCheck:
    """One metric of one verdict. e-values are evidence: `threshold` (1 over the metric's alpha) is enough.

    `route`: "worse" or "planned" (FAIL), "non_inferior" or "below_slo" (PASS), "both_above_slo" (stable is as bad), or "".
    `effect` is the canary's bad rate minus stable's with an `interval` valid at every look; `upper_bound` is the
    largest canary rate not refuted; `burst` is how many bad events came together and were counted as one.
    """

    metric: str
    kind: VerdictKind
    route: str
    stable: Tally
    canary: Tally
    stable_rate: float | None
    canary_rate: float | None
    effect: float | None
    interval: tuple[float, float] | None
    upper_bound: float
    e_harm: float
    e_noninferior: float
    e_below_slo: float
    threshold: float
    limit: float
    burst: float
    z_score: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says and why, in one sentence.

    `guard` names what decided: "crash_loop", "bad_windows", "errors" or "slow" (FAIL), "common_mode", "no_data",
    "evidence" (PASS), or "" while nothing has. `needs_requests` and `needs_s` are for an INCONCLUSIVE one, at the
    rates seen so far; None when no amount of the same would do. `expired`: INCONCLUSIVE at the step's longest time.
    """

    kind: VerdictKind
    sentence: str
    cause: NoDataCause | None = None
    checks: tuple[MetricCheck, ...] = ()
    guard: str = ""
    measured_split: float | None = None
    needs_requests: int | None = None
    needs_s: float | None = None
    expired: bool = False
    common_mode: bool = False


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON values; no number in it is NaN or infinite (such a one becomes null)."""
    plain: dict[str, Any] = _plain(asdict(verdict))
    return plain


def verdict_from_json(body: dict[str, Any]) -> Verdict:
    """The verdict that `verdict_to_json` wrote. Fields of a later version are ignored."""
    known = {field.name for field in fields(Verdict)}
    values = {name: value for name, value in body.items() if name in known}
    values["kind"] = VerdictKind(values["kind"])
    values["cause"] = None if values.get("cause") is None else NoDataCause(values["cause"])
    values["checks"] = tuple(_check_from_json(check) for check in values.get("checks", ()))
    return Verdict(**values)


def _check_from_json(body: dict[str, Any]) -> MetricCheck:
    known = {field.name for field in fields(MetricCheck)}
    values = {name: value for name, value in body.items() if name in known}
    values["kind"] = VerdictKind(values["kind"])
    values["stable"], values["canary"] = Tally(**values["stable"]), Tally(**values["canary"])
    if values["interval"] is not None:
        low, high = values["interval"]
        values["interval"] = (low, high)
    return MetricCheck(**values)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, VerdictKind | NoDataCause):
        return value.value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
