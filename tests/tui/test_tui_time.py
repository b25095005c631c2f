"""Back in time and back to where one was; and the incident report from a key."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.tui.past import EVERY_S, KEPT_S, Past
from console.tui.scene import Frame
from console.tui.visits import MOST, Visit, Visits


@given(st.lists(st.floats(0.5, 120.0), min_size=1, max_size=200))
def test_the_past_is_half_an_hour_thinned_and_in_order(waits: list[float]) -> None:
    class Seen:
        def __init__(self, as_of: float) -> None:
            self.as_of = as_of

    past, now, frames = Past(), 1000.0, []
    for wait in waits:
        now += wait
        frames.append(Frame(Seen(now)))  # type: ignore[arg-type]
        past.note(frames[-1])
    walked, shown, kept = [], frames[-1], [frame.snapshot.as_of for frame in past._frames]
    while (frame := past.step(shown, -1)) is not None:
        walked.append(frame.snapshot.as_of)
        shown = frame
    assert walked == [at for at in reversed(kept) if at < now]
    assert all(now - at <= KEPT_S for at in kept)
    assert all(b - a >= EVERY_S for a, b in itertools.pairwise(kept))
    back = []
    while (frame := past.step(shown, 1)) is not None:
        back.append(frame.snapshot.as_of)
    assert back == kept[1:] if walked else back == []


def test_visits_are_a_browsers() -> None:
    visits, a, b, c = Visits(), Visit("fleet"), Visit("runs"), Visit("audit")
    for one in (a, b, b, c):
        visits.note(one)
    assert [visits.go(-1), visits.go(-1), visits.go(-1)] == [b, a, None]
    assert visits.go(1) == b
    visits.note(Visit("slos"))
    assert visits.go(1) is None, "a new way cuts off what was ahead"
    assert [visits.go(-1), visits.go(-1)] == [b, a]
    for number in range(3 * MOST):
        visits.note(Visit("runs", ref=str(number)))
    went = 0
    while visits.go(-1) is not None:
        went += 1
    assert went == MOST - 1


async def test_comma_and_full_stop_go_through_what_was_seen(desk: Any, engine: Any) -> None:
    async with desk() as d:
        await d.shows("chat", "summarize")
        past = d.app._past
        (only,) = past._frames
        older = only.snapshot.model_copy(update={"as_of": only.snapshot.as_of - 600, "fleet": only.snapshot.fleet[:1]})
        past._frames.appendleft(Frame(older))
        await d.press("comma")
        await d.until(lambda: "screen held" in d.text and "summarize" not in d.text)
        await d.press("comma")
        await d.shows("nothing earlier was seen")
        await d.press("full_stop")
        await d.shows("summarize", "screen held")
        await d.press("f")
        await d.until(lambda: "screen held" not in d.text)


async def test_less_and_greater_walk_where_one_was(desk: Any) -> None:
    async with desk() as d:
        await d.shows("summarize")
        await d.press("2")
        await d.press("enter")
        await d.shows("needs 412 more requests")
        await d.press("8")
        await d.shows("looks good")
        await d.press("less_than_sign")
        await d.shows("needs 412 more requests")
        await d.press("less_than_sign", "less_than_sign")
        await d.shows("summarize")
        await d.press("less_than_sign")
        await d.shows("this is where it began")
        await d.press("greater_than_sign", "greater_than_sign")
        await d.shows("needs 412 more requests")
        await d.press("greater_than_sign", "greater_than_sign")
        await d.shows("there is nothing ahead")


async def test_e_writes_a_report_of_the_service_under_the_cursor(
    desk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    async with desk() as d:
        await d.shows("summarize")
        await d.press("e")
        await d.until(lambda: list(tmp_path.rglob("incident-*.json")))
        await d.shows("✓ ", "incident-2")
    (report,) = tmp_path.rglob("incident-*.md")
    assert report.read_text().startswith("# Incident: chat in ")
