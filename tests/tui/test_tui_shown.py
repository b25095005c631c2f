"""What the console sends: the cells that differ, so that a terminal shows the same as if all had been sent."""

from __future__ import annotations

import random

import pyte
import pytest
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region, Size
from textual.strip import Strip
from tui_world import World

from console.tui.steady import SteadyCharts
from console.tui.widgets.shown import Shown

SIZE = Size(24, 5)
WORDS = ("abc", " ", "服务", "▁▃▅█", "12.4 ms", "e\u0301", "→", "–")


def some_styles() -> tuple[Style, ...]:
    """Fresh ones: a style keeps the codes of the colour system it was first rendered for."""
    return (
        Style(),
        Style(color="#f0716d", bgcolor="#10141b", bold=True),
        Style(color="#86c98f", bgcolor="#10141b"),
        Style(color="cyan", dim=True),
        Style(color="cyan", bold=True, underline=True),
        Style(reverse=True),
    )


def full(strips: list[list[Strip]], x: int = 0, y: int = 0) -> LayoutUpdate:
    return LayoutUpdate(list(strips), Region(x, y, SIZE.width - x, len(strips)))


def some_line(luck: random.Random, styles: tuple[Style, ...], width: int) -> Strip:
    segments = [Segment(luck.choice(WORDS), luck.choice(styles)) for _ in range(luck.randint(1, 8))]
    return Strip(segments).adjust_cell_length(width, Style())


class Screen:
    """A terminal that is only fed."""

    def __init__(self) -> None:
        self.screen = pyte.Screen(*SIZE)
        self.stream = pyte.Stream(self.screen)

    def cells(self) -> list[list[object]]:
        return [[self.screen.buffer[y][x] for x in range(SIZE.width)] for y in range(SIZE.height)]


@pytest.mark.parametrize("colors", ["truecolor", "256", "standard"])
@pytest.mark.parametrize("seed", range(8))
def test_a_terminal_fed_with_differences_shows_what_one_fed_with_everything_does(seed: int, colors: str) -> None:
    luck, console = random.Random(seed), Console(color_system=colors, force_terminal=True)  # type: ignore[arg-type]
    little, all_of_it, shown, styles = Screen(), Screen(), Shown(), some_styles()
    lines = [some_line(luck, styles, SIZE.width) for _ in range(SIZE.height)]
    for _ in range(12):
        for y in luck.sample(range(SIZE.height), 2):
            lines[y] = some_line(luck, styles, SIZE.width)
        update = full([[line] for line in lines])
        little.stream.feed(shown.difference(update, SIZE, console) or "")
        all_of_it.stream.feed(update.render_segments(console).replace("\n", ""))
        assert little.cells() == all_of_it.cells()


def test_what_was_sent_is_not_sent_again_until_it_is_forgotten() -> None:
    console, shown, styles = Console(color_system="256", force_terminal=True), Shown(), some_styles()
    lines = [Strip([Segment("req/s  41.7".ljust(24), styles[2])]) for _ in range(5)]
    first = shown.difference(full([[line] for line in lines]), SIZE, console)
    assert first is not None and first.count("req/s") == 5
    assert shown.difference(full([[line] for line in lines]), SIZE, console) == ""
    lines[3] = Strip([Segment("req/s  42.7".ljust(24), styles[2])])
    changed = shown.difference(full([[line] for line in lines]), SIZE, console)
    assert changed is not None and "2" in changed and "req" not in changed and len(changed) < 40
    shown.forget()
    assert (shown.difference(full([[line] for line in lines]), SIZE, console) or "").count("req/s") == 5


def test_a_part_of_a_line_is_compared_where_it_stands() -> None:
    console, shown, screen = Console(color_system="256", force_terminal=True), Shown(), Screen()
    strip = Strip([Segment("0123456789" * 2 + "abcd", Style())])
    screen.stream.feed(shown.difference(full([[strip]] * 5), SIZE, console) or "")
    other = Strip([Segment("01234X6789" * 2 + "abcd", Style())])
    update = ChopsUpdate([{0: other}] * 5, [(2, 4, 9)], [[24]] * 5)
    screen.stream.feed(shown.difference(update, SIZE, console) or "")
    assert screen.screen.display[2] == "01234X67890123456789abcd" and screen.screen.display[1].startswith("0123456")


def test_charts_stand_for_seconds_while_the_numbers_beside_them_go_on() -> None:
    charts, row = SteadyCharts(), World.fleet_row()

    def seen(now: float) -> tuple[float, tuple[float, ...]]:
        found = charts.of(row.model_copy(update={"rps": now, "rate_series": (now,)}), now)
        return found.rps, found.rate_series

    assert [seen(100.0 + s) for s in range(7)] == [(100.0 + s, (100.0 if s < 5 else 105.0,)) for s in range(7)]
    assert seen(30.0) == (30.0, (30.0,)), "stepped back in time: the chart of then"
