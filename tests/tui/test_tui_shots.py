"""Pictures of the console: drawn from an engine, without a terminal, without anything from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.client import EngineClient
from console.tui.shots import save_screens
from state.words import TimedOut, UsageError


def test_screens_are_drawn_from_a_living_engine(engine: Any, tmp_path: Path) -> None:
    names = ["fleet", "rollout=rollout/ro-2", "lineage=lineage/service/chat", "run=run/run-3", "rollback", "help"]
    with EngineClient.at_socket(engine.socket_path) as client:
        paths = save_screens(client, tmp_path / "out", names)
    assert [p.name for p in paths] == ["fleet.svg", "rollout.svg", "lineage.svg", "run.svg", "rollback.svg", "help.svg"]
    drawn = {p.stem: p.read_text(encoding="utf-8").replace("&#160;", " ") for p in paths}
    assert "INCONCLUSIVE" in drawn["rollout"]
    assert "0a1b2c" in drawn["lineage"]
    assert "step 20 loss 3.2" in drawn["run"]
    assert "airboss rollback chat" in drawn["rollback"]
    assert all("@font-face" not in text and "cdnjs" not in text for text in drawn.values())
    assert engine.done == []


def test_a_screen_that_there_is_not_is_a_sentence(engine: Any, tmp_path: Path) -> None:
    with EngineClient.at_socket(engine.socket_path) as client, pytest.raises(UsageError, match="no screen 'nowhere'"):
        save_screens(client, tmp_path, ["nowhere"])


def test_without_an_engine_it_gives_up_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.tui.shots.WAIT_S", 0.5)
    with EngineClient.at_socket(tmp_path / "none.sock") as client, pytest.raises(TimedOut, match="sent no snapshot"):
        save_screens(client, tmp_path, ["fleet"])
