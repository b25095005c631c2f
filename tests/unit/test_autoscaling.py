"""The autoscaler's decisions and the capacity advice: pure, so mostly properties."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.autoscaling.capacity import Measured, advise
from engine.autoscaling.policy import Bounds, Decision, Sample, TrackLoad, decide
from engine.autoscaling.reading import concurrency_of, read_exposition
from state.autoscale_config import Autoscale
from state.config import parse_config
from state.words import ConfigError

TICK = 2.0
LONG_AGO = -1e9
CONFIG = Autoscale(min=1, max=6, target_utilisation=0.75, up_window=10, down_window=60)


def load(demand: float, *, ready: int = 1, sampled: int | None = None, kv: float = 0.0, slots: int = 8) -> TrackLoad:
    return TrackLoad(demand, kv, ready, ready if sampled is None else sampled, slots)


def seen(*tracks: TrackLoad, now: float = 1000.0, back_s: float = 80.0) -> list[Sample]:
    """The same tracks at every tick until `now`."""
    count = int(back_s / TICK)
    return [Sample(now - TICK * (count - i), tracks) for i in range(count + 1)]


def told(
    samples: list[Sample], current: int, bounds: Bounds | None = None, *, changed_at: float = LONG_AGO, config: Autoscale = CONFIG
) -> Decision:  # fmt: skip
    return decide(config, samples, current, bounds or Bounds(), now=1000.0, changed_at=changed_at)


def test_load_above_the_target_adds_what_is_needed_at_once_and_says_the_numbers() -> None:
    decision = told(seen(load(20)), 1)
    assert decision == Decision(4, "250% used over 10 s, 75% wanted: 3.3 needed")


def test_a_moment_of_load_adds_nothing() -> None:
    samples = seen(load(0))
    samples[-1] = Sample(1000.0, (load(20),))
    assert told(samples, 1).replicas == 1
    assert told(seen(load(20), back_s=6), 1).replicas == 1


def test_a_full_kv_cache_counts_as_load() -> None:
    assert told(seen(load(1, ready=2, kv=1.0)), 2).replicas == 3


def test_the_busiest_track_decides() -> None:
    assert told(seen(load(1), load(14)), 1).replicas == 3


def test_memory_bounds_what_is_added_and_is_named() -> None:
    decision = told(seen(load(40)), 1, Bounds(room=2))
    assert decision.replicas == 3 and decision.reason.endswith("memory has room for 2 more")
    assert told(seen(load(40)), 1, Bounds(room=0)).replicas == 1


def test_replicas_are_given_back_one_at_a_time_and_a_window_apart() -> None:
    idle = seen(load(0.0, ready=4))
    assert told(idle, 4).replicas == 3
    assert told(idle, 4, changed_at=1000.0 - 59).replicas == 4


@pytest.mark.parametrize("what", ["busy once", "not seen for a while", "a silent replica", "too young"])
def test_what_may_have_been_needed_is_kept(what: str) -> None:
    idle = load(0.0, ready=2)
    samples = seen(idle)
    if what == "busy once":
        at = samples.index(next(s for s in samples if s.at > 960))
        samples[at : at + 5] = [Sample(s.at, (load(12, ready=2),)) for s in samples[at : at + 5]]
    elif what == "not seen for a while":
        samples = [s for s in samples if not 960 < s.at < 975]
    elif what == "a silent replica":
        samples[-3] = Sample(samples[-3].at, (load(0.0, ready=2, sampled=1),))
    else:
        samples = [s for s in samples if s.at > 950]
    assert told(samples, 2).replicas == 2


def test_a_rollouts_floor_holds_against_idleness_and_against_max() -> None:
    idle = seen(load(0.0, ready=4))
    assert told(idle, 4, Bounds(floor=4)).replicas == 4
    small = Autoscale(min=1, max=2, up_window=10, down_window=60)
    assert told(idle, 4, Bounds(floor=4), config=small).replicas == 4
    assert told(idle, 4, config=small).replicas == 2


demands = st.lists(st.floats(0, 200), min_size=41, max_size=41)


@given(demands, st.integers(1, 6), st.integers(0, 6), st.integers(0, 3) | st.none())
def test_a_decision_stays_within_every_bound(wave: list[float], current: int, floor: int, room: int | None) -> None:
    floor = min(floor, current)
    samples = [Sample(1000.0 - TICK * (40 - i), (load(d, ready=current),)) for i, d in enumerate(wave)]
    replicas = told(samples, current, Bounds(floor, room)).replicas
    assert max(CONFIG.min, floor) <= replicas <= CONFIG.max
    assert replicas >= current - 1
    if room is not None:
        assert replicas <= current + room


@given(demands, st.integers(1, 6), st.floats(0, 50))
def test_more_load_never_means_fewer_replicas(wave: list[float], current: int, more: float) -> None:
    def of(extra: float) -> int:
        return told([
            Sample(1000.0 - TICK * (40 - i), (load(d + extra, ready=current),)) for i, d in enumerate(wave)
        ], current).replicas  # fmt: skip

    assert of(more) >= of(0.0)


@settings(max_examples=50)
@given(st.floats(0, 60), st.integers(1, 6))
def test_a_steady_load_comes_to_rest_and_is_not_moved_again(demand: float, current: int) -> None:
    """Whatever is there at first, after some windows the number stays: up and down do not chase each other."""
    now, changed_at = 0.0, 0.0
    samples: list[Sample] = []
    moves: list[tuple[float, int]] = []
    while now < 700:
        now += TICK
        samples.append(Sample(now, (load(demand, ready=current),)))
        replicas = decide(CONFIG, samples, current, Bounds(), now=now, changed_at=changed_at).replicas
        if replicas != current:
            moves.append((now, replicas))
            current, changed_at = replicas, now
    assert all(at < 500 for at, _ in moves)
    steps = [b - a for (_, a), (_, b) in pairwise(moves)]
    assert all(step < 0 for step in steps), "after it went down it went up again, or up twice"
    enough = demand / (8 * CONFIG.target_utilisation) / (1 + 0.1)
    assert current >= min(CONFIG.max, enough)


def test_a_table_that_cannot_be_meant_is_an_error_with_its_line() -> None:
    for line, said in (
        ("min = 3\nmax = 2", "min = 3 is above max = 2"),
        ("up_window = '1s'", "greater than or equal to 6"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_config(f"[service.chat.autoscale]\n{line}\n", Path("airboss.toml"))
    assert parse_config("[service.chat]\n", Path("airboss.toml")).service["chat"].autoscale is None


def test_littles_law_gives_the_advice() -> None:
    """10 requests/s of 0.6 s each: 6 at once; at 75 % that is 8 places, one replica of 8."""
    advice = advise(Measured(window_s=60, requests=600, busy_s=360, waited_s=60, replicas=2, concurrency=8))
    assert advice is not None
    assert (advice.arrival_rate, advice.service_time_s, advice.wait_s) == (10.0, 0.6, 0.1)
    assert (advice.in_service, advice.utilisation) == (6.0, 0.375)
    assert (advice.recommended_concurrency, advice.recommended_replicas) == (8, 1)
    assert advice.headroom_rps == pytest.approx(16 * 0.75 / 0.6 - 10)
    assert advise(Measured(60, 0, 0, 0, 2, 8)) is None


@given(st.integers(1, 10_000), st.floats(0.001, 1e5), st.integers(1, 20), st.integers(1, 256))
def test_the_advised_replicas_carry_the_load_and_one_fewer_would_not(
    requests: int, busy_s: float, replicas: int, concurrency: int
) -> None:
    advice = advise(Measured(60.0, requests, busy_s, 0.0, replicas, concurrency))
    assert advice is not None
    per_replica = concurrency * 0.75
    assert advice.in_service <= advice.recommended_replicas * per_replica * (1 + 1e-6)
    assert advice.recommended_replicas == 1 or advice.in_service > (advice.recommended_replicas - 1) * per_replica
    assert math.isclose(advice.headroom_rps + advice.arrival_rate, replicas * per_replica / advice.service_time_s)


def test_a_replicas_words_are_read_and_what_is_no_number_is_no_load() -> None:
    text = (
        '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"} 3.0\n'
        'vllm:num_requests_running{engine="1"} 1.0\nvllm:num_requests_waiting_by_reason{reason="x"} 9\n'
        'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:e2e_request_latency_seconds_count{a="b"} 4\n'
        'vllm:e2e_request_latency_seconds_sum{a="b"} 2.5\nvllm:e2e_request_latency_seconds_bucket{le="1"} 4\n'
    )
    reading = read_exposition(text)
    assert reading is not None
    assert (reading.running, reading.waiting, reading.kv_usage) == (4.0, 0.0, 0.5)
    assert (reading.requests, reading.e2e_s, reading.queued_s) == (4.0, 2.5, 0.0)
    assert read_exposition("vllm:num_requests_running NaN\n") is None
    assert read_exposition("up 1\n") is None
    assert concurrency_of({"serving": {"max_batch": 32}}) == 32
    assert concurrency_of({"serving": {"max_num_seqs": None, "max_inflight": 256}}) == 256
    assert concurrency_of({}) == 1
