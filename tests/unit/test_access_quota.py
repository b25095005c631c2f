"""Rate limits on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.gateway.access.identity import Identity
from engine.gateway.access.prompt import body_of, estimated_tokens, map_texts, texts_of
from engine.gateway.access.quota import Quota
from engine.gateway.access.window import MemoryWindows
from engine.gateway.answers import Refused
from state.access_config import RateConfig, RateLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def quota(clock: Clock, workers: int = 1, **limits: dict[str, int]) -> Quota:
    return Quota(RateConfig.model_validate(limits), workers, clock)


ANA = Identity("key:ana", "acme")
BEN = Identity("key:ben", "acme")


def ask(on: Quota, who: Identity | None = ANA, address: str = "10.0.0.1", tokens: int = 10) -> str:
    """ "" when let in, else the reason why not."""
    try:
        on.admit(on.limits_of(who, address), lambda: tokens)
    except Refused as refused:
        return refused.reason if refused.answer.status == 429 else f"status {refused.answer.status}"
    return ""


def test_a_caller_has_its_requests_of_a_minute_and_room_again_as_they_age() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 3})
    for _ in range(3):
        assert ask(on) == ""
        clock.now += 10
    assert ask(on) == "rate_limited"
    assert ask(on, BEN) == "", "another key has its own"
    clock.now += 30.1  # the first is over a minute old
    assert ask(on) == ""
    assert ask(on) == "rate_limited"


def test_a_refusal_says_when_to_come_back_and_that_is_when_there_is_room() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 2})
    ask(on)
    clock.now += 7
    ask(on)
    with pytest.raises(Refused) as refused:
        on.admit(on.limits_of(ANA, ""), lambda: 0)
    headers = refused.value.answer.headers
    assert headers["Retry-After"] == "53"
    assert headers["X-Ratelimit-Remaining-Requests"] == "0"
    clock.now += 53.1
    assert ask(on) == ""


def test_tenants_share_their_limit_and_addresses_theirs_whatever_the_key() -> None:
    clock = Clock()
    on = quota(clock, tenant={"requests_per_minute": 2}, address={"requests_per_minute": 4})
    assert [ask(on), ask(on, BEN), ask(on)] == ["", "", "rate_limited"]
    other = Identity("key:cy", "rival")
    assert [ask(on, other), ask(on, other)] == ["", ""]
    assert ask(on, Identity("key:dee", "third")) == "rate_limited", "four came from that address"
    assert ask(on, Identity("key:dee", "third"), address="10.0.0.2") == ""


def test_a_refused_request_takes_nothing_from_any_limit() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 10}, tenant={"requests_per_minute": 1})
    ask(on)
    assert [ask(on) for _ in range(20)] == ["rate_limited"] * 20
    clock.now += 61
    ticket = on.admit(on.limits_of(ANA, ""), lambda: 0)
    assert on.headers(ticket)["X-Ratelimit-Remaining-Requests"] == "0", "the tenant's, the tightest"


def test_a_burst_is_bounded_within_a_second() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 100, "burst": 2})
    assert [ask(on), ask(on), ask(on)] == ["", "", "rate_limited"]
    clock.now += 1.1
    assert ask(on) == ""


def test_tokens_are_estimated_first_and_put_right_by_the_answer() -> None:
    clock = Clock()
    on = quota(clock, key={"tokens_per_minute": 100})
    ticket = on.admit(on.limits_of(ANA, ""), lambda: 90)
    assert ask(on, tokens=20) == "token_limited"
    on.settle(ticket, 30)
    second = on.admit(on.limits_of(ANA, ""), lambda: 20)
    assert on.headers(second)["X-Ratelimit-Remaining-Tokens"] == "50"
    on.settle(second, 200)  # the answer was longer than anybody thought: it is paid for later
    assert ask(on, tokens=1) == "token_limited"
    clock.now += 61
    assert ask(on, tokens=1) == ""


def test_a_request_larger_than_the_limit_may_go_alone() -> None:
    clock = Clock()
    on = quota(clock, key={"tokens_per_minute": 100})
    assert ask(on, tokens=1000) == ""
    assert ask(on, tokens=1) == "token_limited"


def test_a_key_may_have_a_limit_of_its_own() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 1})
    rich = Identity("key:rich", rate=RateLimit(requests_per_minute=3))
    assert [ask(on, rich) for _ in range(4)] == ["", "", "", "rate_limited"]


@given(limit=st.integers(1, 50), workers=st.integers(1, 8))
def test_workers_together_let_through_the_limit_and_less_than_one_more_each(limit: int, workers: int) -> None:
    clock = Clock()
    house = [quota(clock, workers, key={"requests_per_minute": limit}) for _ in range(workers)]
    let = sum(ask(on) == "" for on in house for _ in range(limit + 1))
    assert limit <= let < limit + workers


@given(jumps=st.lists(st.floats(0, 200), max_size=40), limit=st.integers(1, 9))
def test_never_more_than_the_limit_in_any_minute_however_time_passes(jumps: list[float], limit: int) -> None:
    clock = Clock()
    windows = MemoryWindows(clock)
    taken: list[float] = []
    for jump in jumps:
        clock.now += jump
        for _ in range(3):
            if windows.acquire_entry("k", limit, 60, 1):
                taken.append(clock.now)
            elif (wait := windows.wait_s("k", limit, 60, 1)) > 0:
                assert wait <= 60.001
    assert all(sum(at - 60 < other <= at for other in taken) <= limit for at in taken)


def test_the_wall_clock_plays_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    on = quota(Clock(), key={"requests_per_minute": 1})
    assert ask(on) == ""
    for wall in (0.0, 4e9):
        monkeypatch.setattr("time.time", lambda wall=wall: wall)
        assert ask(on) == "rate_limited", "a clock set forward frees nobody, one set back locks nobody out for longer"


def test_callers_beyond_the_bound_are_forgotten_not_kept() -> None:
    windows = MemoryWindows(Clock(), max_windows=10)
    for number in range(100):
        windows.acquire_entry(f"k{number}", 1, 60, 1)
    assert windows.reset() == 10


def test_the_texts_of_every_format_are_found_and_changed() -> None:
    parts = [{"type": "text", "text": "two"}, {"type": "image_url", "image_url": {"url": "x"}}]
    body = {
        "prompt": ["zero", "one"],
        "messages": [{"role": "user", "content": parts}, {"role": "system", "content": "three"}, "odd"],
        "model": "chat",
    }
    assert texts_of(body) == ["zero", "one", "two", "three"]
    changed = map_texts(body, str.upper)
    assert texts_of(changed) == ["ZERO", "ONE", "TWO", "THREE"]
    assert changed["messages"][0]["content"][1] == parts[1] and body["messages"][0]["content"][0]["text"] == "two"


@pytest.mark.parametrize("body", [b"[]", b"nonsense", b"{}", b'{"max_tokens": "many", "prompt": 3}', b"[" * 100_000])
def test_an_estimate_can_be_made_of_anything(body: bytes) -> None:
    assert estimated_tokens(body_of(body), len(body)) > 0


def test_texts_nested_too_deep_are_estimated_by_their_size() -> None:
    deep: object = "x"
    for _ in range(100):
        deep = [deep]
    assert estimated_tokens({"prompt": deep}, 4000) == 4000 // 4 + 1 + 16


def test_an_estimate_is_the_prompt_and_what_the_answer_may_take() -> None:
    assert estimated_tokens({"prompt": "x" * 400, "max_tokens": 50}, 430) == 151


def test_what_a_refused_request_took_from_the_first_limits_is_given_back() -> None:
    clock = Clock()
    on = quota(clock, key={"requests_per_minute": 10, "tokens_per_minute": 500}, tenant={"tokens_per_minute": 100})
    assert ask(on, tokens=90) == ""
    assert [ask(on, tokens=50) for _ in range(20)] == ["token_limited"] * 20, "the tenant has no room"
    other = Identity("key:ana", "rival")  # the same key's limits, with room at another tenant
    headers = on.headers(on.admit(on.limits_of(other, ""), lambda: 10))
    assert headers["X-Ratelimit-Remaining-Requests"] == "8", "the one let in before, and this one"
    assert headers["X-Ratelimit-Remaining-Tokens"] == "90", "the tenant's, the tightest"
    assert headers["X-Ratelimit-Reset-Tokens"] == "60s"
