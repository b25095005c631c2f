"""stdout: the four formats, byte for byte, and nothing in them that steers a terminal."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from console.commands import health_tables, tables
from console.output import Outcome, Output, Table, Text, envelope, plain, visible

OUTCOME = Outcome(
    "Rollout",
    [{"id": "ro-3", "created_at": 1_790_000_000.25, "warm_until": None, "weight": 25, "params": {"at": 5.0}}],
    blocks=(Table(("ROLLOUT", "WEIGHT"), [("ro-3", "25 %"), ("ro-12", "100 %")], frozenset({1})), Text("two")),
    names=("rollout/ro-3",),
    as_of=1_790_000_001.0,
)


def _shown(format: str, outcome: Outcome = OUTCOME, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    Output(format, stream).show(outcome)
    return raw.getvalue().decode(encoding)


def test_table() -> None:
    assert _shown("table") == "ROLLOUT  WEIGHT\nro-3       25 %\nro-12     100 %\ntwo\n"


def test_json_is_one_line_in_a_pipe_with_times_in_rfc_3339() -> None:
    assert _shown("json") == (
        '{"apiVersion": "airboss/v1", "kind": "Rollout", "asOf": "2026-09-21T14:13:21.000Z", "items": [{"id": "ro-3", '
        '"created_at": "2026-09-21T14:13:20.250Z", "warm_until": null, "weight": 25, "params": {"at": 5.0}}]}\n'
    )


def test_yaml_says_the_same() -> None:
    assert yaml.safe_load(_shown("yaml")) == json.loads(_shown("json"))


def test_name() -> None:
    assert _shown("name") == "rollout/ro-3\n"


def test_no_control_character_leaves() -> None:
    hostile = Outcome("X", [], blocks=(Table(("A",), [("\x1b[2Jgone\n\u202eback",)]), Text("line\n\x1b]0;x\x07")))
    assert _shown("table", hostile) == "A\n\\x1b[2Jgone\\n\\u202eback\nline\n\\x1b]0;x\\x07\n"
    assert visible("ž · ok") == "ž · ok"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_locale_that_cannot_say_it_stops_no_answer(encoding: str) -> None:
    outcome = Outcome("X", [{"name": "žluť €"}], blocks=(Text("žluť €"),))
    assert "lu" in _shown("table", outcome, encoding)
    assert json.loads(_shown("json", outcome, encoding))["items"] == [{"name": "žluť €"}]


def test_json_has_no_nan() -> None:
    assert plain({"a": float("nan"), "b": [float("inf"), 1.5]}) == {"a": None, "b": [None, 1.5]}
    assert envelope(Outcome("X", [{"p95_ms": float("nan")}]))["items"] == [{"p95_ms": None}]


def test_a_watch_is_json_lines_with_a_rising_seq() -> None:
    stream = io.StringIO()
    output = Output("json", stream)
    output.event("ADDED", object={"at": 0.0})
    output.event("MODIFIED", object={})
    assert [json.loads(line) for line in stream.getvalue().splitlines()] == [
        {"type": "ADDED", "seq": 1, "object": {"at": "1970-01-01T00:00:00.000Z"}},
        {"type": "MODIFIED", "seq": 2, "object": {}},
    ]


def test_the_fleet_shows_what_is_unknown_as_unknown(views: dict[str, Callable[..., dict[str, Any]]]) -> None:
    row = views["fleet"](p95_ms=None, error_ratio=None, budget_left=None, held_by="ana")
    assert _shown("table", health_tables.fleet([row])) == (
        "SERVICE  ENV         RELEASE   TRACKS               REQ/S  P95  ERRORS  BUDGET  ROLLOUT  PHASE                     ALERTS\n"
        "chat     production  charlm-2  stable=charlm-2@75%   12.5    -       -       -  ro-3     step_baking, held by ana       1\n"
    )


def test_a_filter_narrows_items_and_rows_alike(views: dict[str, Callable[..., dict[str, Any]]]) -> None:
    outcome = tables.rollouts([views["rollout"](), views["rollout"](id="ro-4", service="search")], "SEARCH")
    assert [item["id"] for item in outcome.items] == ["ro-4"]
    assert list(outcome.names) == ["rollout/ro-4"]
    assert "no rollouts" in _shown("table", tables.rollouts([], ""))
