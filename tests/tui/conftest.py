"""Fixtures of the console's tests: a fake engine (tui_engine.py) with a small world (tui_world.py), a console on it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from console.client import EngineClient
from console.tui.console_app import ConsoleApp

# Test files are not a package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from tui_engine import FakeEngine
from tui_world import World

os.environ.setdefault("TERM", "xterm-256color")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A fake engine that listens."""
    directory = Path(tempfile.mkdtemp(prefix="ab-"))
    fake = FakeEngine(directory / "e.sock")
    fake.start()
    yield fake
    fake.stop()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def factory(engine: FakeEngine) -> Callable[[], EngineClient]:
    """Makes clients of the fake engine."""
    return lambda: EngineClient.at_socket(engine.socket_path)


class Desk:
    """A console under test: its app, its pilot, what is on its screen."""

    def __init__(self, app: ConsoleApp, pilot: Pilot[int]) -> None:
        self.app, self.pilot = app, pilot

    @property
    def text(self) -> str:
        """The screen as text."""
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())

    async def until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until something is so; fails with the screen."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"it never came to be; the screen:\n{self.text}")
            await self.pilot.pause(0.02)

    async def shows(self, *texts: str) -> None:
        """Wait until all of these are on screen."""
        await self.until(lambda: all(text in self.text for text in texts))

    async def press(self, *keys: str) -> None:
        """Press keys one after another, as a hand does."""
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause(0.07)

    async def armed(self) -> None:
        """Wait until the panel in front takes keys."""
        await self.until(lambda: getattr(self.app.screen, "_armed_at", None) is not None)


@pytest.fixture
def desk(factory: Callable[[], EngineClient]) -> Callable[..., AbstractAsyncContextManager[Desk]]:
    """Opens a console on the fake engine, waiting for its first snapshot."""

    @asynccontextmanager
    async def opened(size: tuple[int, int] = (120, 40), **options: Any) -> AsyncIterator[Desk]:
        app = ConsoleApp(factory, **options)
        async with app.run_test(size=size) as pilot:
            found = Desk(app, pilot)
            await found.until(lambda: app.scene.frame is not None or app.scene.lost is not None)
            await pilot.pause()
            yield found

    return opened


@pytest.fixture
def world() -> type[World]:
    """Canned objects."""
    return World
