"""The joint gate: errors, time, quality and cost judged by one arithmetic, alpha split over what is on (seed 3.9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binom

from adapters.measures import CostPolicy, QualityCheck
from adapters.ports import ArmCounts, ArmEvidence, Interval, Unsafe
from engine.gateway.quality.checks import is_good
from engine.rollouts.guardrails import is_unsafe
from engine.rollouts.judge import JudgeInput, JudgePolicy, Verdict, judge
from state.config import Config, Slo, parse_config
from state.measures_config import CostConfig, QualityConfig
from state.policy_config import JudgeConfig
from state.words import ConfigError, VerdictKind

CONFIG = """
[service.chat.quality]
sample = 50
share = 95
[service.chat.quality.check.shape]
json_object = true
[service.chat.quality.check.polite]
command = ["judge-model", "--strict"]
[service.chat.cost]
usd_per_hour = 3.6
max_usd_per_1k_tokens = 0.02
[environment.production]
"""


def service(text: str = CONFIG):  # type: ignore[no-untyped-def]
    return parse_config(text, Path("airboss.toml")).service["chat"]


def policy_of(config: Config | None = None, **judge_config: bool) -> JudgePolicy:
    chat = service()
    return JudgePolicy.from_config(
        JudgeConfig(min_requests=50, **judge_config), Slo(availability=95), chat.quality, chat.cost
    )


def look(policy: JudgePolicy, stable: ArmCounts, canary: ArmCounts, seconds: int = 60) -> Verdict:
    intervals = tuple(Interval(1e9 + i, 1e9 + i + 1, stable, canary) for i in range(seconds))
    return judge(JudgeInput(ArmEvidence(intervals, 0.0, 1.0), policy, float(seconds), True, None, 25))


GOOD = ArmCounts(15, 0, 0, checked=6, failed=0, priced=15, dear=0, busy_s=1.5, tokens=300)


def test_alpha_is_split_over_the_metrics_that_are_on_and_the_verdict_says_so() -> None:
    policy = policy_of()
    assert policy.metrics == ("errors", "slow", "quality", "cost")
    assert policy.metric_alpha == pytest.approx(0.05 / 4)
    verdict = look(policy, GOOD, replace(GOOD, requests=5, checked=5, priced=5, busy_s=0.5, tokens=100))
    assert verdict.kind is VerdictKind.PASS
    assert "alpha 0.05 is split over 4 metrics" in verdict.sentence
    assert "a request costs $0.0001 (stable $0.0001)" in verdict.sentence
    assert policy_of(quality=False, cost=False).metrics == ("errors", "slow")


def test_a_canary_that_answers_worse_fails_though_no_request_does() -> None:
    verdict = look(policy_of(), GOOD, ArmCounts(5, 0, 0, checked=5, failed=2, priced=5))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "quality")
    assert "nswers that fail a check: canary 120/300 (40 %)" in verdict.sentence


def test_a_canary_that_costs_too_much_fails_though_it_is_good() -> None:
    verdict = look(policy_of(), GOOD, ArmCounts(5, 0, 0, checked=5, priced=5, dear=3))
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, "cost")


@pytest.mark.parametrize(
    ("canary", "stable", "share", "is_found"),
    [
        ((3, 3), (0, 9), 0.1, True),
        ((3, 1), (0, 9), 0.1, False),  # one caller
        ((3, 3), (30, 9), 0.1, False),
        ((8, 3), (30, 9), 0.1, True),
        ((2, 2), (0, 0), 0.0, True),
        ((2, 2), (0, 0), 1.0, False),
        ((700, 9), (700, 9), 0.1, True),  # as many as a noisy check finds within hours
        ((1_000_000, 9), (9_000_000, 9), 0.1, False),
        ((1_010_000, 9), (8_990_000, 9), 0.1, True),
    ],
)
def test_unsafe_answers_are_held_to_stables_however_many_there_are(
    canary: tuple[int, int], stable: tuple[int, int], share: float, is_found: bool
) -> None:
    assert is_unsafe(Unsafe(*canary), Unsafe(*stable), share, 0.05) is is_found


def test_chance_is_the_binomials() -> None:
    for total, share in ((2, 0.5), (40, 0.1), (900, 0.03)):
        for found in range(2, min(total, 60) + 1):
            exact = binom.sf(found - 1, total, share)
            for alpha in (0.01, 0.05, 0.2):
                assert is_unsafe(Unsafe(found, 2), Unsafe(total - found, 2), share, alpha) is bool(exact <= alpha)


def test_without_a_checked_answer_nothing_passes() -> None:
    verdict = look(policy_of(), GOOD, ArmCounts(5, 0, 0, checked=0, priced=5), seconds=300)
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "checked answers needed" in verdict.sentence


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (QualityCheck("a", "matches", pattern=r"\d{4}"), "in 1969", "long ago"),
        (QualityCheck("a", "forbids", pattern="(?i)lorem"), "text", "Lorem ipsum"),
        (QualityCheck("a", "json"), '```json\n{"a": 1}\n```', '{"a": 1'),
        (QualityCheck("a", "json"), "[1, 2]", "yes"),
        (QualityCheck("a", "refusal"), "The capital is Paris.", "I'm sorry, but I can't help with that."),
        (QualityCheck("a", "refusal"), "Paris. I cannot recall more.", "As an AI language model, I have no view."),
        (QualityCheck("a", "refusal"), "巴黎。", "抱歉，我无法回答这个问题。"),
        (QualityCheck("a", "length", min_chars=3, max_chars=5), "four", "no"),
        (QualityCheck("a", "length", max_chars=5), "", "too long"),
    ],
)
def test_the_built_in_checks(check: QualityCheck, good: str, bad: str) -> None:
    assert is_good(check, good) and not is_good(check, bad)


def test_a_request_is_dear_by_its_share_of_the_replicas_busy_time() -> None:
    by_tokens = CostPolicy(3.6, max_usd_per_1k_tokens=0.02)  # a tenth of a cent a second
    assert not by_tokens.is_dear(busy_s=1.0, tokens=50) and by_tokens.is_dear(busy_s=1.1, tokens=50)
    by_request = CostPolicy(3.6, max_usd_per_request=0.002)
    assert not by_request.is_dear(busy_s=2.0, tokens=0) and by_request.is_dear(busy_s=2.1, tokens=0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[service.chat.quality.check.a]\nmatches = 'x'\nrefusal = true", "exactly one of"),
        ("[service.chat.quality.check.a]\nforbids = '('", "no regular expression"),
        ("[service.chat.quality.check.a]\nmin_chars = 9\nmax_chars = 3", "below min_chars"),
        ("[service.chat.cost]\nmax_usd_per_request = 1.0", "usd_per_hour"),
        ("[service.chat.cost]\nusd_per_day = 1.0", "no such field"),
    ],
)
def test_a_faulty_table_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        service(text)
    assert said in str(caught.value) and "airboss.toml:" in str(caught.value)


def test_what_is_not_configured_is_neither_measured_nor_judged() -> None:
    plain = JudgePolicy.from_config(JudgeConfig(), Slo(), QualityConfig(), CostConfig())
    assert plain.metrics == ("errors", "slow")
