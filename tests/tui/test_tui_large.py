"""Many objects: what is read of them, what is kept, and what a person waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from console.client import EngineClient
from console.rows import KEPT, Known, Rows, first_of
from console.tui.audit_log import AuditLog
from console.tui.listing import Listing
from console.tui.narrowing import Narrowing
from console.tui.past import Past
from console.tui.record_rows import RELEASES, release_row
from console.tui.scene import Frame, Scope
from console.tui.widgets.line_table import LineTable
from engine.api.lines import snapshot_lines, tags_of
from engine.api.schemas import ReleaseView
from state.words import OperationFailed


def a_release(world: Any, name: str) -> ReleaseView:
    found: ReleaseView = world.release(1).model_copy(update={"id": name})
    return found


def releases(world: Any, count: int) -> Rows[ReleaseView]:
    return Rows(
        ReleaseView,
        [a_release(world, f"rel-{n:05d}").model_dump_json().encode() for n in range(count)],
    )


def test_a_row_is_made_when_it_is_looked_at_and_only_so_many_are_kept(world: Any) -> None:
    rows = releases(world, KEPT + 40)
    assert (len(rows), rows[7].id, rows[-1].id) == (KEPT + 40, "rel-00007", f"rel-{KEPT + 39:05d}")
    assert [row.id for row in rows[3:5]] == ["rel-00003", "rel-00004"] and len(rows._made) == 4
    assert len(list(rows)) == KEPT + 40 and len(rows._made) == KEPT
    rows.rest()
    assert not rows._made and rows[9].id == "rel-00009"
    with pytest.raises(IndexError):
        rows[len(rows)]


def test_a_row_is_found_by_its_key_without_making_the_others(world: Any) -> None:
    rows = releases(world, 600)
    assert rows.place_of("rel-00413", lambda row: row.id, near=3) == 413
    assert rows.place_of("rel-9", lambda row: row.id) is None
    assert len(rows._made) == 1
    assert first_of(rows, "rel-00077", lambda row: row.id == "rel-00077") is rows[77]


def test_what_did_not_change_is_not_sent_again_and_stays_the_same_value(world: Any) -> None:
    known, before = Known(), world.snapshot()
    first = known.read(snapshot_lines(before, tags_of(known.have)))
    assert list(first.fleet) == list(before.fleet) and first.status == before.status
    changed = before.model_copy(
        update={"as_of": before.as_of + 1, "fleet": (before.fleet[0].model_copy(update={"rps": 1.5}),)}
    )
    body = snapshot_lines(changed, tags_of(known.have))
    assert len(body.splitlines()) == 2, "a head and the one row of the fleet"
    second = known.read(body)
    assert second.fleet[0].rps == 1.5 and second.as_of == before.as_of + 1
    assert second.releases is first.releases and second.audit is first.audit


def test_an_answer_that_is_cut_off_is_said_to_be_none(world: Any) -> None:
    body = snapshot_lines(world.snapshot(), {})
    with pytest.raises(OperationFailed, match="not one that this console"):
        Known().read(body.rsplit(b"\n", 1)[0])


def test_the_past_is_packed_and_opens_again(world: Any) -> None:
    known, past, frames = Known(), Past(), []
    for beat in range(3):
        seen = world.snapshot()
        fleet = (seen.fleet[0].model_copy(update={"rps": 10.0 + beat}),)
        seen = seen.model_copy(update={"as_of": seen.as_of + 6 * beat, "fleet": fleet})
        frames.append(Frame(known.read(snapshot_lines(seen, tags_of(known.have)))))
        assert frames[-1].snapshot.fleet[0].rps == 10.0 + beat
        past.note(frames[-1])
    assert frames[0].snapshot.fleet._lines is None and frames[2].snapshot.fleet._lines is not None  # type: ignore[attr-defined]
    assert frames[0].snapshot.audit is frames[2].snapshot.audit, "shared, and still in use"
    step = past.step(frames[2], -1)
    assert step is not None and step.snapshot.fleet[0].rps == 11.0


def test_a_long_list_is_narrowed_in_slices_to_what_looking_at_each_would_give(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, looked = releases(world, 1500), []

    def counted(row: ReleaseView, now: float) -> Any:
        looked.append(row.id)
        return release_row(row, now)

    listing: Listing[ReleaseView] = Listing(
        "releases", RELEASES.columns, lambda f, _s: rows, lambda r: r.id, counted, ""
    )
    monkeypatch.setattr("console.tui.narrowing.SLICE_S", -1.0)  # a slice ends before it begins
    frame, narrowing, scope = Frame(world.snapshot()), Narrowing(listing), Scope(filter="rel-0011")
    assert len(narrowing.of(frame, scope)) == 0 and not narrowing.is_over
    monkeypatch.setattr("console.tui.narrowing.SLICE_S", 60.0)
    narrowing.go_on(0.0)
    found = narrowing.of(frame, scope)
    assert narrowing.is_over and [row.id for row in found] == [f"rel-0011{n}" for n in range(10)]
    assert narrowing.of(frame, scope) is found and len(looked) == 1500
    rows = Rows(ReleaseView, [a_release(world, "rel-00110x").model_dump_json().encode(), *rows.lines])
    assert len(narrowing.of(frame, scope)) == 11
    assert len(looked) == 1501, "a row that is as it was is not looked at again"


def test_the_audit_log_has_no_gap_and_ends_at_its_oldest_row(
    engine: Any, factory: Callable[[], EngineClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.tui.audit_log.PAGE", 3)
    one = engine.world.audit[0]

    def write(first: int, last: int) -> None:
        rows = tuple(one.model_copy(update={"id": n}) for n in range(first, last + 1))
        status = engine.world.status.model_copy(update={"audit_rows": last})
        engine.world = engine.world.model_copy(update={"audit": rows, "status": status})

    log = AuditLog()
    with factory() as client:

        def look() -> list[int]:
            return [row.id for row in log.look(client, engine.world.status)]

        write(1, 8)
        assert look() == [8, 7, 6]
        write(1, 10)
        assert look() == [10, 9, 8, 7, 6, 5, 4, 3]
        assert look() == list(range(10, 0, -1))
        assert look() == list(range(10, 0, -1))
        assert log.look(client, engine.world.status) is log.look(client, engine.world.status)
        write(1, 2)
        assert look() == [2, 1], "a store that was restored begins again"


async def test_the_cursor_of_ten_thousand_rows_stays_on_its_object_when_rows_come_before_it(
    engine: Any, desk: Any, world: Any
) -> None:
    async with desk(size=(120, 40)) as d:
        rows = tuple(a_release(world, f"rel-{n:05d}") for n in range(10_000))
        engine.change(releases=rows)
        await d.press("4")
        await d.shows("rel-00003")
        await d.press("j", "j", "j")
        engine.change(releases=(a_release(world, "rel-new"), *rows))
        await d.shows("rel-new")
        table = d.app.screen.query_one("#table", LineTable)
        assert table.item.id == "rel-00003" and table.count == 10_001
        assert len(table._items._made) < 200, "only what is seen is made"
