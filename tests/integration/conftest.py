"""The demo with a tiny model, for the tests that play it; the gateway's deck, for those that serve."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Test files are not a package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from gateway_deck import Deck, opened_deck

from console.demo.play import DemoWish, play_demo

TINY = (
    ("model.n_layer", 1),
    ("model.n_head", 2),
    ("model.n_embd", 32),
    ("evaluate.batches", 4),
    ("evaluate.resamples", 200),
    ("evaluate.max_prompt_failures", 10),
)


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
