"""Pictures of the console from a real engine: each view drawn headless at a fixed size and written as SVG."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from console.client import EngineClient
from console.tui.keymap import LISTS
from console.tui.terminal import prepare
from state.words import TimedOut, UsageError

if TYPE_CHECKING:
    from console.tui.console_app import ConsoleApp

SIZE = (160, 45)
FONT = "DejaVu Sans Mono"
FONT_PX = 20.26
"""Where a cell of this font is as wide as the drawing takes it to be: 12.2 of its units."""
WAIT_S = 10.0
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def portable(svg: str) -> str:
    """The SVG without fonts from the network, in a font that renderers have."""
    return _FONT_FACE.sub("", svg).replace("Fira Code", FONT).replace("font-size: 20px", f"font-size: {FONT_PX}px")


def save_screens(
    client: EngineClient, out_dir: Path, names: Sequence[str], *, size: tuple[int, int] = SIZE
) -> list[Path]:
    """Write `NAME.svg` for each name into `out_dir`; the files, in the order asked for.

    A name is a view (`fleet`, `rollouts`, …), `help`, `rollback` (its panel on the newest rollout), or
    `FILE=rollout/ID`, `FILE=run/ID`, `FILE=lineage/REF` for one object. Raises UsageError for any other.
    """
    wanted = [_parse(name) for name in names]
    prepare(os.environ)
    out_dir.mkdir(parents=True, exist_ok=True)
    address = client.address
    return asyncio.run(_draw(lambda: EngineClient(address), out_dir, wanted, size))


def _parse(name: str) -> tuple[str, str]:
    file, _, target = name.partition("=")
    target = target or file
    known = target in (*LISTS, "help", "rollback") or target.split("/")[0] in ("rollout", "run", "lineage")
    if not known:
        raise UsageError(
            f"there is no screen {target!r} to draw",
            hint=f"one of {', '.join(LISTS)}, help, rollback, FILE=rollout/ID, …",
        )
    return file.replace("/", "-"), target


async def _draw(
    factory: Callable[[], EngineClient], out_dir: Path, wanted: Sequence[tuple[str, str]], size: tuple[int, int]
) -> list[Path]:
    from console.tui.console_app import ConsoleApp

    app = ConsoleApp(factory)
    paths = []
    async with app.run_test(size=size) as pilot:
        app.theme = "airboss-dark"
        await _until(lambda: app.scene.snapshot is not None, f"the engine at {factory().address} sent no snapshot")
        for file, target in wanted:
            await app.show_view(target if target in LISTS else "fleet")
            kind, _, rest = target.partition("/")
            if kind == "help":
                app.open_help(palette=False)
            elif kind == "rollback":
                await app.show_view("rollouts")
                await pilot.press("b")
            elif kind == "lineage":
                app.open_lineage(rest)
            elif rest:
                app.open_ref(target)
            await pilot.pause()
            wanted_kind = app.console_screen.interest.kind if app.console_screen.interest is not None else ""
            if wanted_kind and app.screen is app.console_screen:
                await _until(partial(_has, app, wanted_kind), f"the engine did not answer for {target}")
            await pilot.pause(0.5)
            path = out_dir / f"{file}.svg"
            path.write_text(portable(app.export_screenshot(title="airboss")), encoding="utf-8")
            paths.append(path)
            while app.screen is not app.console_screen:
                await app.pop_screen()
    return paths


def _has(app: ConsoleApp, kind: str) -> bool:
    """Whether what the open screen asked for has come."""
    frame = app.scene.frame
    return frame is not None and frame.interest is not None and frame.interest.kind == kind and frame.extra is not None


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimedOut(f"{what} within {WAIT_S:g} s", hint="is the engine up? `airboss status`")
        await asyncio.sleep(0.05)
