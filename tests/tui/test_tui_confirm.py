"""The confirm ladder: opens on Cancel, takes nothing unseen, typed ahead or pasted, asks more where more is at stake."""

from __future__ import annotations

import asyncio
from typing import Any

from textual import events

from console.tui.screens.confirm import ConfirmScreen


def burst(app: Any, text: str) -> None:
    """Keys that arrive in one read."""
    for char in text:
        app.post_message(events.Key({"\r": "enter"}.get(char, char), char))


async def test_enter_escape_n_and_q_cancel(desk: Any, engine: Any) -> None:
    async with desk() as d:
        for key in ("enter", "escape", "n", "q"):
            await d.press("b")
            await d.armed()
            await d.press(key)
            await d.shows("nothing was done")
        assert engine.done == []


async def test_the_key_that_opened_it_never_accepts(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.armed()
        await d.press("b", "b")
        assert isinstance(d.app.screen, ConfirmScreen)
        assert engine.done == []


async def test_b_and_y_in_one_read_never_confirm(desk: Any, engine: Any) -> None:
    async with desk() as d:
        burst(d.app, "by")
        await d.shows("same as")
        await asyncio.sleep(0.5)
        assert isinstance(d.app.screen, ConfirmScreen)
        assert engine.done == []


async def test_y_before_the_panel_was_seen_for_a_moment_is_dropped(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.pilot.press("b")
        await d.until(lambda: isinstance(d.app.screen, ConfirmScreen))
        assert d.app.screen._armed_at is None
        await d.pilot.press("y")
        await d.armed()
        await asyncio.sleep(0.2)
        assert isinstance(d.app.screen, ConfirmScreen)
        assert engine.done == []
        await d.press("y")
        await d.until(lambda: bool(engine.done))


async def test_a_y_read_before_arming_but_handled_later_is_dropped(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        early = events.Key("y", "y")
        await d.armed()
        d.app.post_message(early)
        await asyncio.sleep(0.3)
        assert engine.done == []


async def test_pasted_text_with_a_y_in_it_never_confirms_bracketed_or_not(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.armed()
        d.app.post_message(events.Paste("y"))
        await d.shows("pasted text is not taken here")
        for text in ("yes", "by", "y\r", "\ry"):
            burst(d.app, text)
            await asyncio.sleep(0.25)
            assert engine.done == []
            if not isinstance(d.app.screen, ConfirmScreen):
                await d.press("b")
                await d.armed()


async def test_full_promotion_wants_the_name_and_a_reason(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("p")
        await d.armed()
        await d.press("f")
        await d.shows("type the name chat")
        await d.armed()
        await d.press(*"wrong", "enter")
        await d.shows("that is not chat")
        await d.press("ctrl+u", *"chat", "enter", "enter")
        await d.shows("a reason is wanted")
        await d.press(*"hotfix y", "enter")
        await d.shows("y does it", "--confirm-name chat --reason 'hotfix y'")
        assert engine.done == []
        await d.press("y")
        await d.until(lambda: bool(engine.done))
        done = engine.done[0]
        assert (done.verb, done.confirm_name, done.reason, done.yes) == (
            "rollout.promote_full",
            "chat",
            "hotfix y",
            True,
        )


async def test_a_refusal_says_why_before_y_does_it(desk: Any, engine: Any, world: Any) -> None:
    engine.change(rollouts=(world.rollout("awaiting_approval", refusals={}),))
    async with desk() as d:
        await d.press("2", "p")
        await d.armed()
        await d.press("r")
        await d.shows("Refuse", "the reason:")
        await d.armed()
        await d.press("enter")
        await d.shows("a reason is wanted")
        assert engine.done == []
        await d.press(*"not today", "enter")
        await d.shows("y does it", "rollout reject ro-2 --yes --reason 'not today'")
        await d.press("y")
        await d.until(lambda: bool(engine.done))
        assert (engine.done[0].verb, engine.done[0].reason) == ("rollout.reject", "not today")


async def test_an_approval_shows_what_it_approves(desk: Any, engine: Any, world: Any) -> None:
    engine.change(rollouts=(world.rollout("awaiting_approval", refusals={}),))
    async with desk() as d:
        await d.press("2", "p")
        await d.armed()
        await d.press("a")
        await d.shows("Approve", "rollout approve ro-2 --yes")
        await d.armed()
        await d.press("y")
        await d.until(lambda: bool(engine.done))
        assert (engine.done[0].verb, engine.done[0].expect_revision) == ("rollout.approve", 12)


async def test_a_weight_is_asked_for_checked_and_confirmed_by_name(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("p")
        await d.armed()
        await d.press("w", *"900", "enter")
        await d.shows("a whole number from 1 to 100")
        await d.press("backspace", "backspace", "backspace", *"40", "enter")
        await d.shows("rollout weight ro-2 40")
        await d.armed()
        await d.press(*"chat", "enter", "y")
        await d.until(lambda: bool(engine.done))
        assert engine.done[0].args == {"weight": 40}


async def test_an_open_environment_asks_less(desk: Any, engine: Any, world: Any) -> None:
    engine.change(rollouts=(world.rollout("rolled_back", env="dev", protected=False, finished_at=world.now),))
    async with desk() as d:
        await d.press("2", "t")
        await d.shows("DEV", "Retry")
        assert "type the name" not in d.text
        await d.armed()
        await d.press("y")
        await d.until(lambda: bool(engine.done))


async def test_a_plan_the_engine_refuses_cannot_be_accepted(desk: Any, engine: Any) -> None:
    engine.refuse = {
        "code": "denied",
        "exit": 7,
        "message": "alice may not operate production",
        "retryable": False,
        "hint": "ask group oncall",
    }
    async with desk() as d:
        await d.press("down", "b")
        await d.shows("alice may not operate production — ask group oncall")
        await d.armed()
        await d.press("y")
        await d.shows("the engine refuses it")
        assert engine.done == []


async def test_the_line_is_copied_with_capital_y(desk: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.armed()
        await d.press("Y")
        await d.shows("copied")
        assert d.app.clipboard == "airboss rollback chat --env production --yes"


async def test_panels_shut_out_the_keys_below_and_the_palette(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("b")
        await d.armed()
        await d.press("ctrl+p", "z", "2", "colon")
        assert isinstance(d.app.screen, ConfirmScreen)
        assert engine.done == []
