"""Case 70, what a long history must not cost: the start does not follow all of it, and a page of it is a page."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from large_history import change_by_hand, lengthen
from sqlalchemy import event, text
from sqlmodel import Session

from engine.api.views import rollouts
from engine.chain_keeper import TAIL_ROWS, ChainKeeper
from state import audit
from state.store import Store

ROWS = 3 * TAIL_ROWS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Store.open(tmp_path / "state.db").close()
    lengthen(tmp_path / "state.db", ROWS)
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.chain_keeper.PAGE_PAUSE_S", 0)


def test_case_70_the_start_follows_the_newest_rows_and_says_how_many_are_left(store: Store) -> None:
    keeper = ChainKeeper(store)
    keeper.begin()
    assert keeper.state.is_whole and keeper.unchecked == ROWS
    asyncio.run(keeper.turn())
    assert keeper.state.is_whole and keeper.unchecked == 0


def test_a_row_changed_long_ago_is_found_once_the_engine_is_up(path: Path, store: Store) -> None:
    change_by_hand(path, 17)
    keeper = ChainKeeper(store)
    keeper.begin()
    assert keeper.state.is_whole, "nobody has looked there yet"
    asyncio.run(keeper.turn())
    assert (keeper.state.broken_at, keeper.state.why) == (17, "row 17 does not follow from row 16")
    asyncio.run(keeper.turn(1000))
    assert not keeper.state.is_whole, "it stays so until a round is whole again"


def test_a_row_changed_while_it_runs_is_found_by_a_later_round(path: Path, store: Store) -> None:
    keeper = ChainKeeper(store)
    keeper.begin()
    asyncio.run(keeper.turn())
    change_by_hand(path, 2500)
    asyncio.run(keeper.turn(2000))
    assert keeper.state.is_whole
    asyncio.run(keeper.turn(2000))
    assert keeper.state.broken_at == 2500


def test_one_of_the_newest_rows_changed_by_hand_is_found_before_the_engine_starts(path: Path, store: Store) -> None:
    change_by_hand(path, ROWS - 3)
    keeper = ChainKeeper(store)
    keeper.begin()
    assert keeper.state.broken_at == ROWS - 3


def test_a_tail_that_was_cut_off_is_found_before_the_engine_starts(path: Path, store: Store) -> None:
    (path.with_name("audit.head")).write_text("f" * 64 + "\n")
    keeper = ChainKeeper(store)
    keeper.begin()
    assert "rows were cut off" in keeper.state.why
    older = store.read_now(lambda s: audit.page(s, 9, 1))[0]["hash"]
    path.with_name("audit.head").write_text(older + "\n")
    keeper.begin()
    assert keeper.state.is_whole, "an anchor of before a crash is an older row of the chain"


def test_who_asks_for_all_of_it_gets_all_of_it(path: Path, store: Store) -> None:
    keeper = ChainKeeper(store)
    assert asyncio.run(keeper.verify()) == store.read_now(lambda s: audit.verify(s, path.with_name("audit.head")))
    assert asyncio.run(keeper.verify()).rows == ROWS
    change_by_hand(path, 4000)
    assert asyncio.run(keeper.verify()).broken_at == 4000


@pytest.mark.parametrize("asked", [{"newest": True}, {"after": ROWS // 2}, {"ref": "rollout:ro-70", "newest": True}])
def test_a_page_of_the_audit_log_is_read_by_an_index(store: Store, asked: dict[str, object]) -> None:
    plans: list[str] = []

    def page(session: Session) -> int:
        connection = session.connection()

        @event.listens_for(connection, "before_cursor_execute")
        def explain(conn, cursor, statement, values, *rest):  # type: ignore[no-untyped-def]
            if statement.startswith("SELECT") and not plans:
                plans.append("")
                found = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                plans[0] = " ".join(str(row[3]) for row in found)

        session.execute(text("PRAGMA optimize"))
        return len(rollouts.events(session, limit=200, **asked))  # type: ignore[arg-type]

    assert store.read_now(page) in (12, 200)
    assert "SEARCH audit USING" in plans[0] and "TEMP B-TREE" not in plans[0]
