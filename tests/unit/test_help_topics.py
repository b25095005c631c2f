"""`airboss help TOPIC`: every room's README can be read there, and every topic that a text sends to exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from console.commands.grammar import HelpWanted, parse_args, root
from console.commands.topics import TOPICS
from engine.bench.catalogue import BENCHES

HOUSE = Path(__file__).parents[2]
FLOORS = [HOUSE / name for name in ("console", "engine", "adapters", "state")]


@pytest.fixture(scope="module")
def shown() -> str:
    return "\n".join(text() for _, text in TOPICS.values())


@pytest.mark.parametrize(
    "readme", [p for floor in FLOORS for p in sorted(floor.rglob("README.md"))], ids=lambda p: str(p.relative_to(HOUSE))
)
def test_every_rooms_readme_is_shown_by_a_topic(readme: Path, shown: str) -> None:
    assert readme.read_text(encoding="utf-8") in shown


def test_every_topic_that_a_text_sends_to_exists() -> None:
    texts = [HOUSE / "README.md", *(p for floor in FLOORS for p in floor.rglob("*") if p.suffix in (".md", ".py"))]
    sent = {word for p in texts for word in re.findall(r"airboss help ([a-z][a-z-]+)", p.read_text(encoding="utf-8"))}
    assert sent - {*TOPICS, *root.places} == set()
    assert "exit-codes" in sent


def test_the_help_of_bench_names_every_benchmark() -> None:
    with pytest.raises(HelpWanted) as wanted:
        parse_args(["bench", "--help"])
    assert all(f"airboss bench {name}" in wanted.value.text for name in BENCHES)
