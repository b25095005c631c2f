"""What copies beside the answers users got allow one to say: pure, and at every look."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.observe import copies as copies_module
from engine.observe.copies import Copies
from engine.rollouts.pairs import MOST_PAIRS, Pair, ShadowLimits, judge_pairs
from engine.rollouts.verdict import JudgePolicy, Verdict
from state.config import Slo
from state.policy_config import JudgeConfig, ShadowConfig
from state.words import NoDataCause, VerdictKind

SLO = Slo(availability=90.0, latency_p95_ms=500, latency_share=90.0)
POLICY = JudgePolicy.from_config(JudgeConfig(min_requests=20), SLO)
GOOD = Pair(0.0, 200, 100.0, 1000, "ok", 200, 120.0, 900, 0.1)
NOW = 100.0
NO_LIMITS = ShadowLimits()


def pairs(count: int, *odd: Pair, every: int = 1) -> list[Pair]:
    """So many good pairs over the last minute, with the odd ones among them."""
    found = [replace(GOOD, at=NOW - 60 + 60 * n / count) for n in range(count)]
    for n, pair in enumerate(odd):
        found[n * every] = replace(pair, at=found[n * every].at)
    return found


def judged(found: list[Pair], limits: ShadowLimits = NO_LIMITS, elapsed_s: float = 60.0) -> Verdict:
    return judge_pairs(found, SLO.latency_p95_ms, POLICY, limits, elapsed_s, NOW, None)


def test_enough_good_pairs_pass_and_say_how_the_answers_differ() -> None:
    verdict = judged(pairs(120))
    assert verdict.kind is VerdictKind.PASS
    said = "120 pairs, median latency 120 ms beside 100 ms, median length 0.90 of the users', mean text distance 0.10"
    assert said in verdict.sentence


def test_no_pairs_are_no_data_whatever_the_traffic_was() -> None:
    verdict = judged([], elapsed_s=61.0)
    assert (verdict.kind, verdict.cause) == (VerdictKind.NO_DATA, NoDataCause.SERIES_MISSING)
    assert "No request was copied" in verdict.sentence
    assert judged(pairs(10)).kind is VerdictKind.INCONCLUSIVE


@pytest.mark.parametrize(
    "odd",
    [
        replace(GOOD, result="error", shadow_code=500),
        replace(GOOD, result="deadline", shadow_code=0),
        replace(GOOD, shadow_code=400),
        replace(GOOD, shadow_latency_ms=900.0),
    ],
)
def test_a_shadow_that_does_worse_on_the_same_requests_fails(odd: Pair) -> None:
    verdict = judged(pairs(120, *[odd] * 60, every=2))
    assert verdict.kind is VerdictKind.FAIL
    assert "shadow" in verdict.sentence


def test_what_fails_for_users_too_is_not_the_shadows_fault() -> None:
    both = replace(GOOD, code=500, result="error", shadow_code=500)
    assert judged(pairs(120, *[both] * 60, every=2)).kind is VerdictKind.INCONCLUSIVE


@pytest.mark.parametrize(
    ("odd", "limits", "metric"),
    [
        (replace(GOOD, distance=0.9), ShadowLimits(max_different_pct=20), "text"),
        (replace(GOOD, shadow_length=10), ShadowLimits(max_length_off_pct=20), "length"),
    ],
)
def test_texts_and_lengths_are_judged_where_the_policy_has_a_limit(
    odd: Pair, limits: ShadowLimits, metric: str
) -> None:
    different = pairs(120, *[odd] * 60, every=2)
    assert judged(different).kind is VerdictKind.PASS, "shown, and not judged"
    verdict = judged(different, limits)
    assert (verdict.kind, verdict.guard) == (VerdictKind.FAIL, metric)
    assert "is off in 50.0% of 120 pairs (limit 20%)" in verdict.sentence
    few = judged(pairs(120, *[odd] * 18, every=2), limits)
    assert few.kind is VerdictKind.INCONCLUSIVE and "not yet settled" in few.sentence
    assert judged(pairs(120), limits).kind is VerdictKind.PASS


def test_as_many_pairs_as_the_policy_wants() -> None:
    assert judged(pairs(120), ShadowLimits(min_pairs=200)).kind is VerdictKind.INCONCLUSIVE


def a_line(rollout: str, at: float) -> str:
    return json.dumps(
        {"service": "chat", "env": "p", "rollout_id": rollout, "at": at, "code": 200, "latency_ms": 1.0, "bytes": 3,
         "result": "ok", "shadow_code": 200, "shadow_latency_ms": 2.0, "shadow_bytes": 4, "distance": None}
    )  # fmt: skip


async def test_pairs_are_read_as_they_are_written_and_a_torn_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    line = a_line("ro-1", 5.0)
    file, copies = tmp_path / "mirror-w0-1.jsonl", Copies(tmp_path)
    file.write_text(line + "\n" + line[:20])
    assert len(await copies.pairs("chat", "p", "ro-1", 0.0)) == 1
    with file.open("a") as more:
        more.write(line[20:] + "\nno json\n")
    assert len(await copies.pairs("chat", "p", "ro-1", 0.0)) == 2
    assert await copies.pairs("chat", "p", "ro-1", 6.0) == []
    assert await copies.pairs("chat", "p", "ro-2", 0.0) == []


async def test_what_a_running_rollout_has_learned_outlives_those_that_came_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies_module, "KEPT_PAIRS", 5)
    monkeypatch.setattr(copies_module, "KEPT_ROLLOUTS", 2)
    file, copies = tmp_path / "mirror-w0-1.jsonl", Copies(tmp_path)
    for rollout in ("ro-1", "ro-2", "ro-3", "ro-4"):
        with file.open("a") as more:
            more.writelines(a_line(rollout, float(at)) + "\n" for at in range(4))
        assert len(await copies.pairs("chat", "p", "ro-1", 0.0)) == 4
    with file.open("a") as more:
        more.writelines(a_line("ro-1", float(at)) + "\n" for at in range(4, 9))
    assert [pair.at for pair in await copies.pairs("chat", "p", "ro-1", 0.0)] == [4.0, 5.0, 6.0, 7.0, 8.0]


async def test_no_more_than_the_newest_pairs_are_kept_and_no_more_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = (
        '{"service": "chat", "env": "p", "rollout_id": "ro-1", "at": %d, "code": 200, "latency_ms": 1.0, "bytes": 3, '
        '"result": "ok", "shadow_code": 200, "shadow_latency_ms": 2.0, "shadow_bytes": 4, "distance": null}\n'
    )
    (tmp_path / "mirror-w0-1.jsonl").write_text("".join(line % at for at in range(110)))
    for name, value in (
        ("observe.copies.READ_BYTES", 1000),
        ("observe.copies.KEPT_PAIRS", 100),
        ("rollouts.pairs.MOST_PAIRS", 100),
    ):
        monkeypatch.setattr(f"engine.{name}", value)
    found = await Copies(tmp_path).pairs("chat", "p", "ro-1", 0.0)
    assert (len(found), found[0].at, found[-1].at) == (100, 10.0, 109.0)
    assert ShadowConfig(min_pairs=MOST_PAIRS).min_pairs == MOST_PAIRS
    with pytest.raises(ValueError, match="less than or equal"):
        ShadowConfig(min_pairs=MOST_PAIRS + 1)
    greedy = replace(POLICY, min_requests=1000)
    assert judge_pairs(pairs(100), 500.0, greedy, NO_LIMITS, 60.0, NOW, None).kind is VerdictKind.PASS
