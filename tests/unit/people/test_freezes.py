"""Freezes: begun by people or written in airboss.toml; what they refuse, what they never refuse."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api.views.people import freeze_views
from engine.people.windows import occurrence
from state.config import parse_config
from state.freeze_config import FreezeWindow, weekly_span
from state.words import ConfigError, Denied, RolloutState

DAY = 1440
ALWAYS = {"weekly": "mon 00:00 - mon 00:00", "reason": "the year's end", "environments": ("production",)}


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("fri 18:00 - mon 08:00", ((4 * DAY + 1080, 3720),)),
        ("sat-sun 00:00-24:00", ((5 * DAY, DAY), (6 * DAY, DAY))),
        ("mon 22:00-06:00", ((1320, 480),)),
        ("sun-mon 22:00-06:00", ((6 * DAY + 1320, 480), (1320, 480))),
        ("mon 00:00 - mon 00:00", ((0, 7 * DAY),)),
    ],
)
def test_weekly_times_are_read_as_they_are_meant(text: str, spans: tuple[tuple[int, int], ...]) -> None:
    assert weekly_span(text) == spans


def test_a_time_without_days_holds_every_day() -> None:
    assert weekly_span("12:00-13:00") == tuple((day * DAY + 720, 60) for day in range(7))


@pytest.mark.parametrize("text", ["friday 18:00-20:00", "fri 25:00-26:00", "fri-sat 18:00 - mon 08:00", "", "18:00"])
def test_a_time_that_is_none_is_an_error_with_its_line(text: str) -> None:
    toml = f'[environment.production]\n[freeze.weekend]\nreason = "x"\nweekly = "{text}"\n'
    with pytest.raises(ConfigError, match=r"airboss\.toml:4: freeze\.weekend\.weekly"):
        parse_config(toml, Path("airboss.toml"))


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('reason = "x"', "either weekly times, or since and until"),
        ('reason = "x"\nweekly = "fri 18:00-20:00"\nsince = 2026-12-24T00:00:00Z', "either weekly times"),
        ('reason = "x"\nsince = 2026-12-24T00:00:00\nuntil = 2026-12-26T00:00:00', "offset"),
        ('reason = "x"\nsince = 2026-12-26T00:00:00Z\nuntil = 2026-12-24T00:00:00Z', "since before until"),
        ('reason = " "\nweekly = "fri 18:00-20:00"', "a reason"),
        ('reason = "x"\nweekly = "fri 18:00-20:00"\ntimezone = "Europe/Atlantis"', "no time zone"),
        ('reason = "x"\nweekly = "fri 18:00-20:00"\nenvironments = ["prod"]', r"no \[environment\.prod\]"),
    ],
)
def test_a_window_that_cannot_be_meant_is_refused(toml: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_config(f"[environment.production]\n[freeze.f]\n{toml}\n", Path("airboss.toml"))


def test_a_window_is_wall_clock_time_whatever_the_clocks_do() -> None:
    """The clocks of Berlin go back in the night to 2026-10-25, so that Sunday is 25 hours long."""
    window = FreezeWindow(weekly=("sat 18:00 - mon 08:00",), timezone="Europe/Berlin", reason="weekend")
    span = occurrence(window, at("2026-10-25T12:00:00+01:00"))
    assert span is not None
    assert (span.since, span.until) == (at("2026-10-24T18:00:00+02:00"), at("2026-10-26T08:00:00+01:00"))
    assert span.until - span.since == 39 * 3600


def test_before_and_after_a_window_the_next_one_is_named() -> None:
    window = FreezeWindow(weekly=("fri 18:00 - mon 08:00",), reason="weekend")
    thursday, friday = at("2026-11-26T12:00:00Z"), at("2026-11-27T18:00:00Z")
    for moment in (thursday, friday, friday + 3600, at("2026-11-30T07:59:59Z")):
        span = occurrence(window, moment)
        assert span is not None and (span.since, span.until) == (friday, at("2026-11-30T08:00:00Z"))
    later = occurrence(window, at("2026-11-30T08:00:00Z"))
    assert later is not None and later.since == at("2026-12-04T18:00:00Z")
    once = FreezeWindow(since=datetime.fromisoformat("2026-12-24T00:00:00Z"),
                        until=datetime.fromisoformat("2026-12-26T00:00:00Z"), reason="holidays")  # fmt: skip
    assert occurrence(once, at("2026-12-26T00:00:00Z")) is None


@given(st.integers(1_700_000_000, 1_900_000_000), st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kolkata"]))
def test_an_occurrence_ends_after_now_and_lasts_about_as_long_as_written(moment: int, zone: str) -> None:
    window = FreezeWindow(weekly=("fri 18:00 - mon 08:00", "wed 12:00-13:00"), timezone=zone, reason="x")
    span = occurrence(window, moment)
    assert span is not None and span.until > moment
    assert abs((span.until - span.since) / 3600 - 62) <= 1 or (span.until - span.since) / 3600 == 1


async def test_a_freeze_refuses_what_goes_forward_and_says_who_until_when_and_why(office: Any) -> None:
    moving = await office.deploy(env="dev")
    await office.ask("lea", "freeze.start", "env/production", reason="launch day", args={"until_s": 7200})
    with pytest.raises(
        Denied, match=r"deploy refused: production is frozen until 20.*Z by user:lea: launch day"
    ) as denied:
        await office.deploy(release="charlm-3")
    assert "a rollback is never frozen" in denied.value.hint
    with pytest.raises(Denied, match="frozen"):
        await office.ask(
            "olga", "deploy", "service/chat", args={"release": "charlm-3", "env": "production", "force": True}
        )
    assert office.row(moving).state == RolloutState.AWAITING_APPROVAL  # dev is not frozen
    (frozen,) = office.store.read_now(lambda s: freeze_views(s, office.config))
    assert (frozen.env, frozen.by, frozen.in_force) == ("production", "user:lea", True)


async def test_a_window_of_the_file_freezes_as_a_person_does_and_the_way_back_stays_open(
    office: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await office.deploy()
    monkeypatch.setitem(office.config.freeze, "year-end", FreezeWindow.model_validate(ALWAYS))
    for who in ("lea", "leo"):
        await office.ask(who, "rollout.approve", ref := f"rollout/{name}")
    await office.tick(name)
    assert office.row(name).state == RolloutState.AWAITING_APPROVAL  # approved, and held by the window
    office.change(name, state=RolloutState.STEP_BAKING.value)
    for verb, args in (("promote", {}), ("weight", {"weight": 40})):
        with pytest.raises(Denied, match=rf"rollout\.{verb} refused: production is frozen .* by \[freeze\.year-end\]"):
            await office.ask("olga", f"rollout.{verb}", ref, args=args)
    assert (await office.ask("olga", "rollback", "service/chat", args={"env": "production"})).changed
    assert office.row(name).state == RolloutState.ROLLING_BACK


async def test_broken_glass_goes_through_a_freeze_to_the_end(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(office.config.freeze, "year-end", FreezeWindow.model_validate(ALWAYS))
    name = await office.deploy(break_glass=True, reason="the fix of incident 12")
    await office.tick(name)
    assert office.row(name).state == RolloutState.PREPARING
    assert ("user:olga", "glass.break") in office.audit()
    office.change(name, state=RolloutState.STEP_BAKING.value)
    assert (await office.ask("olga", "rollout.promote", f"rollout/{name}")).changed  # one glass a rollout
    assert [action for _, action in office.audit()].count("glass.break") == 1


async def test_broken_glass_does_not_go_through_a_freeze_that_came_later(office: Any) -> None:
    """Who went past the approval in the morning has not gone past the freeze of the afternoon's incident."""
    name = await office.deploy(break_glass=True, reason="the fix of incident 12")
    await office.tick(name)
    office.change(name, state=RolloutState.STEP_BAKING.value)
    await office.ask("lea", "freeze.start", "env/production", reason="incident 13")
    ref = f"rollout/{name}"
    with pytest.raises(Denied, match=r"frozen until .* by user:lea: incident 13"):
        await office.ask("olga", "rollout.promote", ref)
    assert (await office.ask("olga", "rollout.promote", ref, break_glass=True, reason="it is the fix")).changed
