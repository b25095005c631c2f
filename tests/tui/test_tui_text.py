"""Text, tables and pages: harmless, exactly as wide as asked, the same everywhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.tui.page import beside, facts, panel
from console.tui.table import Column, Row, fit, gap_in, table_lines
from console.tui.text import (
    bar,
    chart,
    count,
    cut,
    duration,
    line,
    line_width,
    millis,
    number,
    pad,
    percent,
    plain,
    safe,
    short_count,
    sparkline,
    wrap,
)

HOSTILE = [
    "[red]x[/red]",
    "[/x] svc",
    "err [key='v]",
    "\x1b[31mred\x1b[0m\x07",
    "\x1b]0;title\x07",
    "a\nb\rc\td",
    "\u202eright to left",
    "\u200bzero\u2066wide",
    "\ud800 lone surrogate",
    "\x9b31m C1",
    "日本語サービス",
    "\x00\x7f",
    "e\u0301" * 30,
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_from_outside_reaches_the_terminal_as_control(text: str) -> None:
    shown = safe(text)
    assert shown.isprintable()
    shown.encode("utf-8")


@given(st.text())
def test_safe_text_is_printable_and_stays_so(text: str) -> None:
    assert safe(text).isprintable()
    assert safe(safe(text)) == safe(text)


def test_a_line_of_megabytes_is_cut_and_says_so() -> None:
    shown = safe("x" * 10_000_000)
    assert len(shown) < 5000
    assert "more characters" in shown


@given(st.text(max_size=60), st.integers(0, 40))
def test_cut_and_pad_keep_to_the_width(text: str, width: int) -> None:
    assert line_width(cut(line(text), width)) <= width
    assert line_width(pad(line(text), width)) == width


@given(st.text(max_size=200), st.integers(2, 40))
def test_wrapped_lines_fit(text: str, width: int) -> None:
    assert all(line_width(row) <= width for row in wrap(text, width))


@given(st.lists(st.text(max_size=30), max_size=6), st.integers(20, 160))
def test_a_panel_is_exactly_as_wide_as_asked(texts: list[str], width: int) -> None:
    lines = panel("title", [line(t) for t in texts], width)
    assert {line_width(row) for row in lines} == {width}


@given(st.integers(20, 200), st.lists(st.text(max_size=50), min_size=3, max_size=3))
def test_a_table_never_is_wider_than_its_place(width: int, cells: list[str]) -> None:
    columns = (Column("A", 3, most=20), Column("B", 4, ">", keep=1), Column("C", 5, flex=True, keep=2))
    for row in table_lines(columns, [Row("k", tuple(line(c) for c in cells))], width):
        assert line_width(row) <= width


def test_columns_are_dropped_in_their_order_and_the_flexible_one_takes_the_rest() -> None:
    columns = (Column("NAME", 4), Column("LESS", 10, keep=1), Column("LEAST", 10, keep=2), Column("WIDE", 4, flex=True))
    assert (
        fit(columns, [4, 10, 10, 4], 16 + 3) == [4, 10, 0, 3 + 4 - gap_in(19) * 2]
        or fit(columns, [4, 10, 10, 4], 20)[2] == 0
    )
    assert fit(columns, [4, 10, 10, 4], 10) == [4, 0, 0, 5]
    assert sum(fit(columns, [4, 10, 10, 4], 120)) + 3 * gap_in(120) == 120


def test_numbers_read_as_a_person_writes_them() -> None:
    assert [duration(s) for s in (0, 34.9, 192, 3840, 183600, None)] == [
        "0 s",
        "34 s",
        "3 m 12 s",
        "1 h 04 m",
        "2 d 03 h",
        "–",
    ]
    assert [percent(p) for p in (0, 0.0025, 0.0021, 0.124, 0.9979, 1.0, None)] == [
        "0 %",
        "0.25 %",
        "0.21 %",
        "12.4 %",
        "99.79 %",
        "100 %",
        "–",
    ]
    assert percent(math.nan) == "–"
    assert [millis(v) for v in (8.44, 412.2, 1240, None)] == ["8.4 ms", "412 ms", "1.24 s", "–"]
    assert count(1204) == "1,204"
    assert [number(v) for v in (8.1, 44_000.0, 3.9377e25)] == ["8.1", "44,000", "3.938e+25"]
    assert [short_count(v) for v in (950, 12345, 4_500_000)] == ["950", "12.3k", "4.5M"]


def test_drawings_have_the_size_asked_for() -> None:
    assert sparkline([0, 1, 2, 4], 3) == "▂▄█"
    assert sparkline([math.nan, 0, 1], 3) == " ▁█"
    assert sparkline([], 8) == ""
    assert len(bar(0.5, 10)) == 10
    assert bar(0.5, 10) == "█████░░░░░"
    assert bar(None, 4) == "····"
    assert chart([1, 2, 4], 4, 2) == ["   █", " ▄██"]


def test_blocks_stand_beside_each_other_whatever_their_heights() -> None:
    rows = beside([line("a")], [line("b"), line("c")], 3)
    assert [plain(r) for r in rows] == ["a   b", "    c"]


def test_facts_wrap_their_values_under_each_other() -> None:
    rows = [plain(r).rstrip() for r in facts([("key", "one two three"), ("k", "x")], 14)]
    assert rows == ["key  one two", "     three", "k    x"]
