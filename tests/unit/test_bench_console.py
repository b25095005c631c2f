"""`airboss bench console`: the picture of an engine it measures on, and the terminal it measures with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.client import EngineClient
from engine.bench.console.terminal import Terminal
from engine.bench.console.world import NAME, Picture, snapshot
from state.words import OperationFailed


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: sockets live in it."""
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as home:
        yield Path(home)


def test_a_still_picture_is_the_same_bytes_and_a_moving_one_is_not() -> None:
    first, again, later = (snapshot(3, 2, beat) for beat in (0, 0, 1))
    assert first == again
    assert [row.rps for row in first.fleet] != [row.rps for row in later.fleet] and first.releases == later.releases


def test_the_console_reads_the_picture_as_it_reads_an_engine(place: Path) -> None:
    picture = Picture(place / "e.sock", 5, 7)
    try:
        with EngineClient.at_socket(place / "e.sock") as client:
            seen = client.snapshot()
    finally:
        picture.close()
    assert (len(seen.fleet), len(seen.releases)) == (5, 7)


def test_the_terminal_sees_the_console_start_answer_a_key_and_fall_silent(place: Path) -> None:
    picture = Picture(place / "e.sock", 5, 7)
    terminal = Terminal(place / "e.sock")
    try:
        assert terminal.until(NAME.format(0).encode()) > 0
        terminal.quiet()
        assert terminal.answer_s(b"4", within_s=20.0) > 0
        terminal.until(b"rel-00006")
        terminal.quiet()
        assert terminal.read_all(2.0) == 0, "nothing changes: nothing is written"
        assert terminal.rss_mb() > 10
        with pytest.raises(OperationFailed, match="did not answer"):
            terminal.answer_s(b"\x00", within_s=0.3)
    finally:
        terminal.close()
        picture.close()
