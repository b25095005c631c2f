"""The demo with a tiny model, for the tests that play it; the gateway's deck, for those that serve."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Test files are not a package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_deck import Deck, opened_deck

from adapters.local.spawn import Spawner
from console.demo.play import DemoWish, play_demo
from engine.pipelines.runner import PipelineRunner
from state.paths import Paths
from state.store import Store

TINY = (
    ("model.n_layer", 1),
    ("model.n_head", 2),
    ("model.n_embd", 32),
    ("evaluate.batches", 4),
    ("evaluate.resamples", 200),
    ("evaluate.max_prompt_failures", 10),
)


@dataclass(frozen=True)
class Pipelines:
    """A pipeline runner over a store of its own; no stage asks the registry."""

    root: Path
    runner: PipelineRunner
    store: Store


@pytest.fixture
async def pipelines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pipelines]:
    """A workspace whose pipelines can be run."""

    async def none() -> str:
        raise AssertionError("no stage here asks the registry")

    with tempfile.TemporaryDirectory(prefix="ab-") as sockets:
        monkeypatch.setenv("XDG_RUNTIME_DIR", sockets)
        paths = Paths.of(tmp_path)
        paths.make()
        store = Store.open(paths.store)
        runner = PipelineRunner(
            store, Spawner(paths.run, paths.logs), paths, registry_socket=none, on_change=lambda ref: None, max_stages=4
        )
        yield Pipelines(tmp_path, runner, store)
        await runner.close()
        store.close()


@pytest.fixture
async def deck() -> AsyncIterator[Deck]:
    """A gateway directory and a port, with nothing running yet."""
    async with opened_deck() as opened:
        yield opened


@pytest.fixture
def demo_root(tmp_path: Path) -> Iterator[Path]:
    """Where the demo is played; whatever it left alive is ended."""
    root = tmp_path / "demo"
    yield root
    for identity in (root / ".airboss" / "run").glob("*.json"):
        body = json.loads(identity.read_text(encoding="utf-8"))
        if "start_ticks" in body and Path(f"/proc/{body['pid']}").exists():
            os.killpg(body["pid"], signal.SIGKILL)


@pytest.fixture
def play(demo_root: Path) -> Callable[..., dict[str, Any]]:
    """Play the demo and demand that every act did what it should."""

    def played(**more: Any) -> dict[str, Any]:
        document = play_demo(DemoWish(demo_root, first_steps=30, second_steps=60, params=TINY, rps=90.0, **more))
        assert document["ok"], json.dumps({k: document[k] for k in ("acts", "requests", "audit")}, indent=1)
        return document

    return played
