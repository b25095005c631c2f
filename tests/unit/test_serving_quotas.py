"""Quotas of tenants: what is counted, when it is free again, and that the host's clock has no say in it."""

from __future__ import annotations

import time

import pytest

from engine.serving.front.errors import ApiError
from engine.serving.front.quotas import QueueClass, Quotas
from engine.serving.settings import ServingSettings, TenantQuota, serving_settings
from state.words import ConfigError

SETTINGS = ServingSettings(
    max_inflight_per_user=2, tokens_per_minute_per_user=100, tenants={"rich": TenantQuota(tokens_per_minute=10_000)}
)


class Clock:
    """A monotonic clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    return Quotas(clock)


def refusal(quotas: Quotas, tenant: str, tokens: int) -> ApiError:
    with pytest.raises(ApiError) as refused:
        quotas.admit(tenant, tokens, SETTINGS, 3.0)
    return refused.value


def test_prompts_are_charged_when_let_in_and_answers_as_generated(quotas: Quotas, clock: Clock) -> None:
    quotas.admit("ann", 60, SETTINGS, 1.0)
    clock.now += 20
    assert refusal(quotas, "ann", 60).retry_after_s == pytest.approx(40)
    quotas.release("ann", 30, SETTINGS)
    assert "has used the 100 tokens" in refusal(quotas, "ann", 20).message
    quotas.admit("ann", 10, SETTINGS, 1.0)
    clock.now += 41
    quotas.admit("ann", 90, SETTINGS, 1.0)


def test_a_refused_request_costs_nothing(quotas: Quotas) -> None:
    quotas.admit("ann", 90, SETTINGS, 1.0)
    for _ in range(50):
        assert refusal(quotas, "ann", 20).status == 429
    quotas.admit("ann", 10, SETTINGS, 1.0)
    quotas.release("ann", 0, SETTINGS)
    quotas.release("ann", 0, SETTINGS)


def test_tenants_do_not_feel_each_other_and_nobody_has_no_quota(quotas: Quotas) -> None:
    quotas.admit("ann", 100, SETTINGS, 1.0)
    quotas.admit("bob", 100, SETTINGS, 1.0)
    quotas.admit("rich", 5000, SETTINGS, 1.0)
    for _ in range(5):
        quotas.admit("", 1_000_000, SETTINGS, 1.0)
    assert refusal(quotas, "ann", 1).status == 429


def test_too_many_at_once_are_told_when_to_come_back(quotas: Quotas) -> None:
    for _ in range(2):
        quotas.admit("ann", 1, SETTINGS, 1.0)
    third = refusal(quotas, "ann", 1)
    assert (third.status, third.retry_after_s) == (429, 3.0)
    quotas.release("ann", 0, SETTINGS)
    quotas.admit("ann", 1, SETTINGS, 1.0)


def test_a_prompt_larger_than_the_quota_is_a_400_for_waiting_will_not_help(quotas: Quotas) -> None:
    refused = refusal(quotas, "ann", 101)
    assert (refused.status, refused.code) == (400, "quota_exceeded")


def test_setting_the_hosts_clock_neither_frees_nor_locks_a_tenant(
    quotas: Quotas, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas.admit("ann", 100, SETTINGS, 1.0)
    for jump in (86_400.0, -86_400.0):
        monkeypatch.setattr(time, "time", lambda jump=jump: 1_790_000_000.0 + jump)
        assert refusal(quotas, "ann", 1).retry_after_s == pytest.approx(60)


def test_classes_have_their_places_and_their_order() -> None:
    settings = ServingSettings(max_batch=4, max_queue=8)
    assert [one.places(settings) for one in QueueClass] == [12, 8, 6]
    assert [one.priority for one in QueueClass] == sorted(one.priority for one in QueueClass)
    with pytest.raises(ConfigError, match="background"):
        serving_settings({}, {"queue_shares": {"interactive": 1.0, "batch": 0.5}})
