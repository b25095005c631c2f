"""The tour: shown once, to who runs the console for the first time; all it says of keys is so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.tui.acts import Refused
from console.tui.keymap import BY_ID
from console.tui.scale_choices import scale_choices
from console.tui.text import plain, width_of
from console.tui.tour_pages import INCIDENT, TITLES, presses, tour_page


async def test_the_tour_goes_through_five_screens_and_leaves(desk: Any) -> None:
    async with desk() as d:
        await d.press("colon", *"tour", "enter")
        for title in TITLES:
            await d.shows(title)
            await d.pilot.pause(0.35)
            await d.press("enter")
        await d.until(lambda: TITLES[-1] not in d.text)
        await d.shows("? help")


async def test_it_goes_back_and_changes_nothing(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.press("colon", *"tour", "enter")
        await d.shows(TITLES[0])
        await d.pilot.pause(0.35)
        await d.press("right", "left", "b", "y", "p")
        await d.shows(TITLES[0])
        await d.press("escape")
        await d.until(lambda: TITLES[0] not in d.text)
        assert engine.done == []


def text_of(app: Any) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def test_the_first_run_begins_with_it_and_the_second_does_not(factory: Any, tmp_path: Path) -> None:
    from console.tui.console_app import ConsoleApp

    for is_first in (True, False):
        app = ConsoleApp(factory)
        app.tour_mark = tmp_path / "state" / "tour-shown"
        async with app.run_test(size=(100, 30)) as pilot:
            while app.scene.frame is None or (is_first and TITLES[0] not in text_of(app)):
                await pilot.pause(0.02)
            await pilot.pause(0.3)
            assert (TITLES[0] in text_of(app)) is is_first


async def test_without_an_engine_its_message_is_shown_and_the_tour_waits(
    engine: Any, factory: Any, tmp_path: Path
) -> None:
    from console.tui.console_app import ConsoleApp

    engine.stop()
    app = ConsoleApp(factory)
    app.tour_mark = tmp_path / "tour-shown"
    async with app.run_test(size=(100, 30)) as pilot:
        while app.scene.lost is None:
            await pilot.pause(0.02)
        await pilot.pause(0.3)
        assert "airboss up -d" in text_of(app) and TITLES[0] not in text_of(app)
    assert not app.tour_mark.exists()


async def test_where_it_cannot_be_remembered_nobody_is_shown_it_at_each_run(factory: Any) -> None:
    from console.tui.console_app import ConsoleApp

    app = ConsoleApp(factory)
    app.tour_mark = Path("/proc/no/tour-shown")
    async with app.run_test(size=(100, 30)) as pilot:
        while app.scene.frame is None:
            await pilot.pause(0.02)
        await pilot.pause(0.3)
        assert len(app.screen_stack) == 2


def test_ten_things_each_at_most_four_keys_away(world: Any) -> None:
    assert len(INCIDENT) == 10 and all(len(keys) <= 4 for keys, _ in INCIDENT)
    snapshot = world.snapshot()
    menu = scale_choices(snapshot.fleet[0], snapshot)
    assert not isinstance(menu, Refused)
    letters = {choice.key for choice in menu}
    for keys, _ in INCIDENT:
        assert presses(keys)
        for name in keys:
            assert name in BY_ID or name == "=y" or (keys[0] == "scale" and name[1:] in letters)


@pytest.mark.parametrize("width", [34, 66, 100])
@pytest.mark.parametrize("number", range(len(TITLES)))
def test_every_screen_fits(number: int, width: int) -> None:
    lines = tour_page(number, width)
    # The first and the last line may be cut on a narrow terminal.
    assert all(width_of(plain(one)) <= width for one in lines[1:-1])
    assert width < 66 or len(lines) <= 20, "80×24 shows it whole"
