"""A spent error budget: what it refuses, what it never refuses, when it ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

from engine.api.views.people import freeze_views
from engine.observe import budgets
from engine.observe.burn import WINDOWS
from engine.observe.slo import Minute, SloStatus, slo_status, tally, window_minutes
from engine.people.freezes import budget_lease
from state.words import Denied, RolloutState

DAY = 86_400.0


def status(bad_share: float, *, service: str = "chat", now: float | None = None) -> SloStatus:
    """A service of 28 days of traffic, one bad share all along."""
    now = time.time() if now is None else now
    last = int(now // 60)
    history = [Minute(last - n, 1000, round(1000 * bad_share)) for n in range(0, 28 * 1440, 60)]
    first = min(m.minute for m in history)
    tallies = {}
    for window in {*WINDOWS, 28 * DAY}:
        low, high = window_minutes(window, first, now)
        tallies[window] = tally([m for m in history if low <= m.minute <= high], now)
    return slo_status(
        service, "production", error_limit=0.005, slow_limit=0.05, window_s=28 * DAY, tallies=tallies, first_minute=first,
        current_is_covered=True, now=now,
    )  # fmt: skip


def spend(office: Any, bad_share: float, service: str = "chat", at: float | None = None) -> None:
    at = time.time() if at is None else at
    office.store.write_now(lambda s: budgets.align(s, budgets.spent([status(bad_share, service=service)]), at))


async def test_a_spent_budget_refuses_what_goes_forward_and_never_the_way_back(office: Any) -> None:
    name = await office.deploy()
    office.change(name, state=RolloutState.STEP_BAKING.value)
    spend(office, 0.02)
    with pytest.raises(Denied, match=r"deploy refused: the availability budget of chat is spent .* until it recovers"):
        await office.deploy(release="charlm-3")
    for verb, args in (("promote", {}), ("weight", {"weight": 40})):
        with pytest.raises(Denied, match="budget of chat is spent") as denied:
            await office.ask("olga", f"rollout.{verb}", f"rollout/{name}", args=args)
        assert "--break-glass" in denied.value.hint
    assert (await office.ask("olga", "rollback", "service/chat", args={"env": "production"})).changed
    assert office.row(name).state == RolloutState.ROLLING_BACK
    assert ("system:slo", "budget.spent") in office.audit()


async def test_it_is_among_the_freezes_until_it_has_recovered_and_then_all_goes_on(office: Any) -> None:
    spend(office, 0.02)
    (seen,) = [v for v in office.store.read_now(lambda s: freeze_views(s, office.config)) if v.in_force]
    assert seen.env == "production" and "is spent" in seen.reason
    spend(office, 0.001)
    assert not [v for v in office.store.read_now(lambda s: freeze_views(s, office.config)) if v.in_force]
    assert ("system:slo", "budget.recovered") in office.audit()
    assert await office.deploy(release="charlm-3")


async def test_another_services_budget_is_its_own_affair_and_broken_glass_goes_past(office: Any) -> None:
    spend(office, 0.02, service="search")
    assert await office.deploy()
    office.change("ro-1", state=RolloutState.ROLLED_BACK.value)
    spend(office, 0.02)
    name = await office.deploy(release="charlm-3", break_glass=True, reason="the fix of incident 12")
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING


def test_it_is_written_seldom_renewed_in_time_and_ends_by_itself(office: Any) -> None:
    now, name = time.time(), budget_lease("chat", "production")
    wanted = budgets.spent([status(0.02, now=now)])
    assert set(wanted) == {name} and budgets.spent([status(0.001, now=now)]) == {}
    assert budgets.is_due(wanted, {}, now)
    spend(office, 0.02, at=now)

    def there(at: float) -> dict[str, float]:
        return office.store.read_now(lambda s: budgets.in_force(s, at))  # type: ignore[no-any-return]

    assert not budgets.is_due(wanted, there(now + 10), now + 10)
    assert budgets.is_due(wanted, there(now + budgets.RENEW_S + 1), now + budgets.RENEW_S + 1)
    assert there(now + budgets.LASTS_S + 1) == {}, "an observer that died freezes nobody for ever"
    assert [action for _, action in office.audit()].count("budget.spent") == 1
    spend(office, 0.02, at=now + budgets.RENEW_S + 1)
    assert [action for _, action in office.audit()].count("budget.spent") == 1, "renewing is not news"
