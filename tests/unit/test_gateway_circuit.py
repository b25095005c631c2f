"""Circuits, outliers and budgets under an injected clock: when a replica is left out, and what may be spent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.ports import Backend, Route
from adapters.routing import Breaker, Choose, Retry, Routing
from engine.gateway.routing.breakers import Breakers
from engine.gateway.routing.budgets import RetryBudget, Rolling, TokenBudget
from engine.gateway.routing.circuit import (
    CLOSED,
    Circuit,
    Fault,
    after_fault,
    after_success,
    begin_trial,
    end_trial,
    left_out,
    outliers,
)

RULES = Breaker(consecutive_5xx=3, consecutive_breaks=2, ejection_s=5.0, ejection_max_s=60.0)
NAMES = ("a", "b", "c", "d")


class Clock:
    """Monotonic seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failed(times: int, fault: Fault, now: float = 0.0, circuit: Circuit = CLOSED) -> Circuit:
    for _ in range(times):
        circuit = after_fault(circuit, fault, RULES, now)
    return circuit


@pytest.mark.parametrize(("fault", "limit"), [(Fault.SERVER_ERROR, 3), (Fault.BREAK, 2)])
def test_so_many_failures_in_a_row_open_a_circuit_and_one_success_between_does_not(fault: Fault, limit: int) -> None:
    assert not failed(limit - 1, fault).is_open(0.0)
    assert failed(limit, fault).is_open(0.0)
    between = after_success(failed(limit - 1, fault), 0.0)
    assert not failed(limit - 1, fault, circuit=between).is_open(0.0)


def test_a_check_that_is_off_never_opens() -> None:
    circuit = CLOSED
    for _ in range(50):
        circuit = after_fault(circuit, Fault.SERVER_ERROR, Breaker(consecutive_5xx=0), 0.0)
    assert circuit.open_until is None


def test_each_time_out_is_twice_as_long_up_to_the_limit_until_it_was_calm_for_as_long() -> None:
    circuit, now, lengths = CLOSED, 0.0, []
    for _ in range(6):
        circuit = failed(3, Fault.SERVER_ERROR, now, circuit)
        assert circuit.open_until is not None
        lengths.append(circuit.open_until - now)
        now = circuit.open_until
    assert lengths == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    well = after_success(circuit, now)
    assert failed(3, Fault.SERVER_ERROR, now + 30.0, well).open_until == now + 90.0
    assert failed(3, Fault.SERVER_ERROR, now + 61.0, well).open_until == now + 66.0


def test_a_trial_is_one_request_at_a_time_and_its_outcome_decides() -> None:
    circuit = failed(3, Fault.SERVER_ERROR)
    assert begin_trial(circuit, 4.9) is circuit
    tried = begin_trial(circuit, 5.0)
    healthy = {"a", "b"}
    assert left_out({"a": tried, "b": CLOSED}, healthy, RULES, 5.0) == {"a"}
    assert left_out({"a": end_trial(tried), "b": CLOSED}, healthy, RULES, 5.0) == frozenset()
    assert after_success(tried, 5.1).open_until is None
    assert after_fault(tried, Fault.BREAK, RULES, 5.1).open_until == pytest.approx(15.1)


CIRCUITS = st.builds(
    Circuit,
    errors=st.integers(0, 5),
    ejections=st.integers(0, 5),
    open_until=st.none() | st.floats(0, 200),
    is_tried=st.booleans(),
)


@given(
    st.dictionaries(st.sampled_from(NAMES), CIRCUITS, min_size=1),
    st.sets(st.sampled_from(NAMES)),
    st.integers(0, 100),
    st.floats(0, 200),
)
def test_never_the_last_healthy_replica_nor_more_than_the_allowed_share_is_left_out(
    circuits: dict[str, Circuit], up: set[str], share: int, now: float
) -> None:
    rules = Breaker(max_ejected_pct=share)
    healthy = up & set(circuits)
    out = left_out(circuits, healthy, rules, now)
    assert out <= {name for name, c in circuits.items() if c.is_open(now) or c.is_tried}
    assert not healthy or healthy - out
    assert len(out) <= (max(1, len(circuits) * share // 100) if share else 0)


@given(st.lists(st.tuples(st.sampled_from(["ok", "5xx", "break"]), st.integers(0, 100)), max_size=60))
def test_a_circuit_is_never_out_longer_than_the_limit_and_no_count_passes_its_threshold(
    events: list[tuple[str, int]],
) -> None:
    circuit, now = CLOSED, 0.0
    for what, later in events:
        now += later
        circuit = after_success(circuit, now) if what == "ok" else after_fault(circuit, Fault(what), RULES, now)
        assert circuit.open_until is None or circuit.open_until - now <= RULES.ejection_max_s
        assert circuit.errors < 3 and circuit.breaks < 2


def test_an_outlier_is_far_below_its_siblings_and_has_enough_requests() -> None:
    rules = Breaker(success_gap_pct=30.0, min_requests=50)
    assert outliers({"a": (99, 1), "b": (98, 2), "c": (60, 40)}, rules) == {"c"}
    assert outliers({"a": (99, 1), "b": (98, 2), "c": (6, 4)}, rules) == frozenset()
    assert outliers({"a": (50, 50), "b": (52, 48)}, rules) == frozenset()  # all are bad: no one is the odd one out
    assert outliers({"a": (0, 100)}, rules) == frozenset()


def route_of(*names: str, rules: Breaker = RULES) -> Route:
    backend = Backend("stable", "chat-1", 100, tuple((name, f"unix:/{name}") for name in names))
    return Route("chat", "production", "local", "", (backend,), 300.0, 10.0, Routing(breaker=rules))


def test_a_window_of_bad_answers_between_good_ones_opens_the_outliers_circuit_at_its_end() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.arrange([route_of("a", "b")])
    for number in range(100):
        breakers.succeeded("a")
        breakers.succeeded("b") if number % 2 else breakers.failed("b", Fault.SERVER_ERROR)
    assert not breakers.is_open("b")
    clock.now += 10.0
    breakers.succeeded("a")
    assert breakers.is_open("b")
    assert breakers.opened["outlier"] == 1
    assert breakers.out("a", {"a", "b"}) == {"b"}
    assert breakers.out("a", {"b"}) == frozenset()
    clock.now += 5.0
    assert breakers.out("a", {"a", "b"}) == frozenset()


def test_circuits_stay_over_a_weight_change_and_go_with_their_replica() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.arrange([route_of("a", "b")])
    for _ in range(3):
        breakers.failed("a", Fault.SERVER_ERROR)
    breakers.arrange([route_of("a", "b", "c")])
    assert breakers.is_open("a")
    breakers.arrange([route_of("b", "c")])
    breakers.arrange([route_of("a", "b")])
    assert not breakers.is_open("a")


def test_retries_are_a_share_of_recent_requests_and_a_minimum() -> None:
    clock = Clock()
    budget = RetryBudget(Retry(budget_pct=20.0, minimum=3, window_s=10.0), clock)
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(100):
        budget.request()
    assert sum(budget.take() for _ in range(100)) == 20
    clock.now += 11.0
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    assert budget.refused == 1 + 80 + 1


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 9)), max_size=40))
def test_a_rolling_sum_holds_what_the_window_holds_to_one_step(events: list[tuple[float, int]]) -> None:
    clock = Clock()
    rolling, seen = Rolling(10.0, clock), []
    for later, amount in events:
        clock.now += later
        rolling.add(amount)
        seen.append((clock.now, amount))
        total = rolling.total()
        assert sum(n for at, n in seen if at > clock.now - 9.49) <= total
        assert total <= sum(n for at, n in seen if at >= clock.now - 10.01)


@given(st.lists(st.floats(-100, 100), max_size=40))
def test_a_clock_that_jumps_neither_loses_a_count_early_nor_goes_below_zero(jumps: list[float]) -> None:
    clock = Clock()
    rolling = Rolling(10.0, clock)
    for jump in jumps:
        clock.now += jump
        rolling.add(1)
        assert rolling.total() >= 1


def test_a_clock_that_jumps_back_and_forth_ends_an_ejection_at_its_time() -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.arrange([route_of("a", "b")])
    for _ in range(3):
        breakers.failed("a", Fault.SERVER_ERROR)
    clock.now -= 500.0
    breakers.succeeded("b")
    assert breakers.is_open("a")
    clock.now += 505.0
    assert not breakers.is_open("a")


def test_tokens_are_spent_until_the_window_moves_on() -> None:
    clock = Clock()
    budget = TokenBudget(Choose(budget_tokens=100, budget_window_s=60.0), clock)
    budget.spend(99)
    assert not budget.is_spent
    budget.spend(1)
    assert budget.is_spent
    clock.now += 61.0
    assert not budget.is_spent
    assert not TokenBudget(Choose(), clock).is_spent


OPS = st.tuples(
    st.sampled_from(["ok", "5xx", "break", "began", "ended"]), st.sampled_from(NAMES), st.floats(0, 20), st.sets(st.sampled_from(NAMES))
)  # fmt: skip


@given(st.lists(OPS, max_size=80))
def test_whatever_replicas_do_one_that_is_healthy_takes_requests_and_all_come_back_when_they_are_well(
    ops: list[tuple[str, str, float, set[str]]],
) -> None:
    clock = Clock()
    breakers = Breakers(clock)
    breakers.arrange([route_of(*NAMES)])
    for what, name, later, healthy in ops:
        clock.now += later
        match what:
            case "ok":
                breakers.succeeded(name)
            case "began":
                breakers.began(name)
            case "ended":
                breakers.ended(name)
            case _:
                breakers.failed(name, Fault(what))
        assert not healthy or healthy - breakers.out(name, healthy)
    clock.now += RULES.ejection_max_s + 1
    for name in NAMES:
        breakers.began(name)
        breakers.succeeded(name)
        breakers.ended(name)
    assert breakers.out("a", set(NAMES)) == frozenset()
