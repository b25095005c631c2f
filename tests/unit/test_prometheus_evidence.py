"""Prometheus' counters as evidence: differences by series, resets, gaps, and what is missing or not a number."""

from __future__ import annotations

import json
import math
import re

import pytest
from aiohttp import web

from adapters.ports import ArmCounts
from adapters.prometheus import Labels, PrometheusMetrics, Series, evidence_of, series_by_labels

Points = dict[int, float]


def labels(track: str, worker: str = "w0", code: str = "") -> Labels:
    named = {"instance": worker, "track": track} | ({"code": code} if code else {})
    return tuple(sorted(named.items()))


def answers(requests: Series, errors: Series | None = None, slow: Series | None = None) -> dict[str, Series]:
    """What three queries answer; `errors` and `slow` stand at zero wherever the test does not say."""
    quiet = {key: dict.fromkeys(points, 0.0) for key, points in requests.items()}
    return {"requests": requests, "errors": {**quiet, **(errors or {})}, "slow": {**quiet, **(slow or {})}}


def test_counters_are_differenced_and_added_up_by_track() -> None:
    found = evidence_of(
        answers(
            {
                labels("stable", "w0"): {0: 100, 5: 150},
                labels("stable", "w1"): {0: 900, 5: 925},
                labels("canary"): {0: 10, 5: 35},
            },
            {labels("canary"): {0: 1, 5: 4}},
            {labels("canary"): {0: 0, 5: 2}},
        ),
        now=6, step_s=5,
    )  # fmt: skip
    assert [(i.stable, i.canary) for i in found.intervals] == [(ArmCounts(75, 0, 0), ArmCounts(25, 3, 2))]
    assert found.age_s == 1


def test_copies_are_told_apart_from_the_canary_and_never_count_as_it() -> None:
    found = evidence_of(
        answers(
            {labels("stable"): {0: 0, 5: 90}, labels("shadow"): {0: 3, 5: 12}},
            {labels("shadow"): {0: 0, 5: 2}},
        ),
        now=6, step_s=5,
    )  # fmt: skip
    assert [i.canary for i in found.intervals] == [ArmCounts()]
    assert [(i.stable, i.canary) for i in found.copies] == [(ArmCounts(90), ArmCounts(9, 2, 0))]


def test_codes_of_one_worker_add_up_to_its_requests() -> None:
    ok, bad = labels("canary", code="ok"), labels("canary", code="5xx")
    found = evidence_of(
        {
            "requests": {ok: {0: 10, 5: 17}, bad: {0: 1, 5: 4}},
            "errors": {bad: {0: 1, 5: 4}},
            "slow": {labels("canary"): {0: 0, 5: 0}},
        },
        now=5, step_s=5,
    )  # fmt: skip
    assert found.intervals[0].canary == ArmCounts(10, 3, 0)


def test_a_counter_that_fell_was_reset_and_counts_from_nothing() -> None:
    found = evidence_of(
        answers({labels("stable", "w0"): {0: 100, 5: 30}, labels("stable", "w1"): {0: 500, 5: 510}}),
        now=5, step_s=5,
    )  # fmt: skip
    assert found.intervals[0].stable.requests == 40


def test_a_missing_scrape_is_a_gap_never_zero() -> None:
    found = evidence_of(answers({labels("stable"): {0: 10, 5: 20, 20: 60}}), now=20, step_s=5)
    assert len(found.intervals) == 1
    assert found.gap_s == 15


def test_one_worker_not_scraped_makes_a_gap_and_never_counts_anothers_whole_life() -> None:
    found = evidence_of(
        answers(
            {
                labels("stable", "w0"): {0: 5000, 5: 5010, 10: 5020, 15: 5030},
                labels("stable", "w1"): {0: 7000, 5: 7010, 15: 7030},
                labels("canary", "w0"): {0: 1, 5: 2, 10: 3, 15: 4},
            }
        ),
        now=15, step_s=5,
    )  # fmt: skip
    assert [(i.t0, i.t1, i.stable.requests, i.canary.requests) for i in found.intervals] == [(0, 5, 20, 1)]
    assert found.gap_s == 10


def test_a_worker_that_starts_later_counts_from_its_first_point() -> None:
    found = evidence_of(
        answers({labels("stable", "w0"): {0: 10, 5: 20, 10: 30}, labels("stable", "w1"): {5: 400, 10: 403}}),
        now=10, step_s=5,
    )  # fmt: skip
    assert [i.stable.requests for i in found.intervals] == [10, 13]
    assert found.gap_s == 0


@pytest.mark.parametrize("metric", ["errors", "slow"])
def test_an_absent_series_is_trouble_and_never_no_bad_events(metric: str) -> None:
    said = answers({labels("stable"): {0: 1, 5: 2}, labels("canary"): {0: 1, 5: 2}})
    said[metric] = {labels("stable"): {0: 0, 5: 0}}
    found = evidence_of(said, now=5, step_s=5)
    assert found.trouble.startswith(f"series_missing: {metric} of {{instance=w0,track=canary}} lacks 2 of 2 points")
    assert not found.intervals


@pytest.mark.parametrize("metric", ["errors", "slow"])
def test_a_series_that_lacks_points_is_trouble(metric: str) -> None:
    said = answers({labels("canary", code="ok"): {0: 1, 5: 2, 10: 3}})
    said[metric] = {labels("canary"): {0: 0, 10: 0}}
    assert "lacks 1 of 3 points" in evidence_of(said, now=10, step_s=5).trouble


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_trouble(value: float) -> None:
    found = evidence_of(answers({labels("stable"): {0: 1, 5: value}}), now=5, step_s=5)
    assert found.trouble.startswith("not_a_number")
    assert not found.intervals


def test_no_series_is_trouble_not_zero() -> None:
    assert evidence_of(answers({}), now=5, step_s=5).trouble.startswith("series_missing")


def test_series_are_told_apart_by_every_label_but_the_name() -> None:
    metric = {"__name__": "airboss_requests_total", "track": "stable", "instance": "w0"}
    found = series_by_labels(
        [{"metric": metric, "values": [[0, "1"]]}, {"metric": {**metric, "instance": "w1"}, "values": [[0, "2"]]}]
    )
    assert found == {labels("stable", "w0"): {0: 1.0}, labels("stable", "w1"): {0: 2.0}}


@pytest.mark.parametrize("metrics", [[{"track": "stable"}] * 2, [{"instance": "w0"}]])
def test_a_series_that_stands_twice_or_has_no_track_is_an_error(metrics: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="without a track, or one that stands twice"):
        series_by_labels([{"metric": metric, "values": [[0, "1"]]} for metric in metrics])


async def test_a_server_that_does_not_answer_is_trouble() -> None:
    found = await PrometheusMetrics("http://127.0.0.1:9").arms("chat", "production", "ro-1", 1, 0.0)
    assert found.trouble.startswith("unreachable")


async def test_trouble_lasts_from_the_first_question_that_was_not_answered_and_what_was_not_asked_is_forgotten() -> (
    None
):
    now = [1000.0]
    source = PrometheusMetrics("http://127.0.0.1:9", clock=lambda: now[0])

    async def silent_s(at: float, service: str = "chat") -> float:
        now[0] = at
        return (await source.arms(service, "production", "ro-1", 1, at - 10)).trouble_s

    assert [await silent_s(1000.0), await silent_s(1020.0), await silent_s(1050.0)] == [0.0, 20.0, 50.0]
    assert await silent_s(1051.0, "other") == 0.0
    assert await silent_s(9000.0) == 0.0


@pytest.mark.parametrize(("last", "beside"), [(25, ArmCounts(20, 0, 0)), (5, ArmCounts(50, 0, 0))])
def test_fresh_copies_are_the_arm_beside_from_the_step_that_started_them(last: int, beside: ArmCounts) -> None:
    found = evidence_of(
        answers(
            {
                labels("stable"): {0: 100, 5: 150, 10: 200},
                labels("baseline"): {5: 5, 10: last},  # scraped for the first time after the step began
                labels("canary"): {5: 5, 10: 25},
            }
        ),
        now=11, step_s=5,
    )  # fmt: skip
    assert found.is_baseline is (last > 5)
    assert found.intervals[-1].stable == beside


GOOD = {
    "metric": {"track": "stable", "instance": "w0", "code": "ok"},
    "values": [[1000, "1"], [1005, "5"], [1010, "9"]],
}


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (200, {"status": "success", "warnings": ["remote read: 1 of 2 stores failed"], "data": {"result": [GOOD]}},
         "partial: .* gave a part of the answer: remote read: 1 of 2 stores failed"),
        (200, "<html>Sign in</html>", "unreachable: .* answered 200 with no JSON: a proxy's page"),
        (401, "", r"unreachable: .* does not let us in \(401\): see \[metrics\] access"),
        (503, {"status": "error", "error": "query timed out"}, "unreachable: .* answered 503: query timed out"),
        (500, "boom", "unreachable: .* answered 500 with no JSON"),
        (200, {"status": "success", "data": {"result": []}}, "series_missing"),
    ],
)  # fmt: skip
async def test_an_answer_that_is_none_or_a_part_is_no_evidence_and_says_what_to_do(
    status: int, body: object, says: str
) -> None:
    async def answer(request: web.Request) -> web.Response:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(
            status=status, text=text, content_type="text/html" if isinstance(body, str) else "application/json"
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        source = PrometheusMetrics(f"http://127.0.0.1:{runner.addresses[0][1]}", clock=lambda: 1012.0)
        found = await source.arms("chat", "production", "ro-1", 1, 1000.0)
    finally:
        await runner.cleanup()
    assert not found.intervals
    assert re.match(says, found.trouble), found.trouble
