"""A benchmark's report: what is compared, what is judged, how it is shown, and the program around it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from engine.bench.catalogue import BENCHES
from engine.bench.report import Report, Row, compared, hardware_line, interleaved, limited, not_measured
from state.words import ExitCode


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    row = compared("rate", "req/s", [10.0, 100.0, 30.0], [20.0, 100.0, 10.0], "bare", at_least=0.8)
    assert (row.ours, row.other, row.ratio) == (30.0, 20.0, 1.0)
    assert row.met is True and row.target == "ratio >= 0.8"


@pytest.mark.parametrize(("value", "met"), [(1.9, True), (2.0, True), (2.1, False)])
def test_an_absolute_limit_is_met_up_to_and_including_it(value: float, met: bool) -> None:
    assert limited("added p99", "ms", [value], at_most=2.0).met is met


def test_only_a_missed_target_fails_the_report() -> None:
    skipped = not_measured("rate", "req/s", "nginx", "not installed: apt-get install nginx")
    plain = limited("rate", "req/s", [3.0])
    met, missed = limited("a", "ms", [1.0], at_most=2.0), limited("b", "ms", [3.0], at_most=2.0)
    assert Report("x", (skipped, plain, met)).exit_code is ExitCode.OK
    assert Report("x", (skipped, plain, met, missed)).exit_code is ExitCode.GATE


def test_rounds_are_interleaved_and_their_order_turns() -> None:
    seen: list[str] = []
    sides = {name: (lambda name=name: seen.append(name) or len(seen)) for name in "abc"}
    found = interleaved(3, sides)  # type: ignore[arg-type]
    assert "".join(seen) == "abcbcacab"
    assert found["a"] == [1, 6, 8]


def test_the_table_and_the_json_say_the_same() -> None:
    rows = (
        Row("rate", "req/s", 5123.0, 6000.0, "bare", 0.854, "ratio >= 0.8", True, "c=32"),
        not_measured("rate", "req/s", "nginx", "not installed: apt-get install nginx"),
        limited("p99", "ms", [3.25], at_most=2.0),
    )
    report = Report("gateway", rows, hardware="a machine", at=0.0, notes=("one core",))
    table = report.as_table()
    assert "5,123" in table and "apt-get install nginx" in table and table.endswith("1 of 2 targets met")
    said = json.loads(report.as_json())
    assert (said["kind"], said["asOf"]) == ("BenchReport", "1970-01-01T00:00:00Z")
    item = said["items"][0]
    assert item["passed"] is False and item["hardware"] == "a machine"
    assert [row["met"] for row in item["rows"]] == [True, None, False]


def test_the_hardware_line_names_cores_and_memory() -> None:
    assert " cores, " in hardware_line() and " GiB, " in hardware_line()


def test_an_unknown_name_is_a_usage_error_that_lists_the_known_ones() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "engine.bench", "nothing"], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == ExitCode.USAGE and ran.stdout == ""
    assert all(name in ran.stderr for name in BENCHES)
