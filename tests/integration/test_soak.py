"""The soak: gateway and model server under mixed load. Seconds here; half an hour with `-m long`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from engine.bench.soak.watch import growth_pct


def soak(minutes: float) -> dict[str, Any]:
    """The report of `airboss bench soak`."""
    words = [sys.executable, "-P", "-m", "engine.bench", "soak", "--minutes", str(minutes), "-o", "json"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=minutes * 60 + 200, check=False)
    assert ran.stdout, ran.stderr
    (report,) = json.loads(ran.stdout)["items"]
    return dict(report)


def missed(report: dict[str, Any]) -> list[Any]:
    return [row for row in report["rows"] if row["met"] is False]


@pytest.mark.deep
def test_a_mixed_load_gets_the_answers_it_deserves_and_leaves_nothing_behind() -> None:
    report = soak(0.08)
    assert missed(report) == [], report["notes"]
    assert all(kind in report["notes"][0] for kind in ("whole", "stream", "cancel", "bad request"))


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_half_an_hour_of_it_keeps_memory_flat() -> None:
    report = soak(30)
    assert missed(report) == [], report["notes"]


@pytest.mark.parametrize(
    ("values", "growth"),
    [([50.0, *[100.0] * 9], 0.0), ([50, 50, 100, 100, 105, 110, 120, 130, 150, 150], 50.0), ([1.0, 2.0], 0.0)],
)
def test_growth_is_measured_from_after_the_warm_up(values: list[float], growth: float) -> None:
    assert growth_pct(values) == pytest.approx(growth)
