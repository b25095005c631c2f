"""The data gates, on records of a real snapshot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.pipelines.stage import StageContext, StageResult
from engine.pipelines.stages import collect, snapshot, validate
from engine.pipelines.stages.text_source import TextRefused
from state.words import UsageError


def stage(root: Path, name: str, module: Any, needs: tuple[str, ...] = (), **params: Any) -> StageResult:
    """Run one stage with outputs in `root/name`."""
    out = root / name
    out.mkdir()
    context = {"workspace": str(root)}
    result: StageResult = module.run(
        StageContext("run-1", name, params, {n: root / n for n in needs}, out, None, context)
    )
    return result


def until_validate(root: Path, text: str | None, **params: Any) -> StageResult:
    stage(root, "collect", collect, text=text)
    stage(root, "snapshot", snapshot, ("collect",))
    return stage(root, "validate", validate, ("snapshot",), **params)


def failed(result: StageResult) -> list[str]:
    return [gate.name for gate in result.refused_by]


def prose(paragraphs: int) -> str:
    return "\n\n".join(f"Paragraph {i} speaks of carriers, decks and wires, at some length." for i in range(paragraphs))


def test_the_interpreters_own_text_passes_every_gate(tmp_path: Path) -> None:
    result = until_validate(tmp_path, None)
    assert failed(result) == []
    assert result.metrics["train_chars"] > 7 * result.metrics["heldout_chars"] > 0


def test_personal_data_reaches_neither_split_and_is_counted(tmp_path: Path) -> None:
    lines = [f"Sailor {i} <sailor{i}@navy.example> flew from 10.0.0.{i}, said the log of the day." for i in range(200)]
    (tmp_path / "log.txt").write_text("\n\n".join(lines))
    result = until_validate(tmp_path, "log.txt")
    assert failed(result) == []
    assert result.facts["dataset"]["redactions"] == {"email": 200, "ipv4": 200}
    clean = "".join(path.read_text() for path in (tmp_path / "validate" / "data").iterdir())
    assert "@navy" not in clean
    assert clean.count("<EMAIL>") == 200


def test_the_data_sets_identity_follows_its_bytes(tmp_path: Path) -> None:
    ids = []
    for name, text in (("a", prose(200)), ("b", prose(200)), ("c", prose(201))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text(text)
        facts = until_validate(tmp_path / name, "x.txt").facts["dataset"]
        assert facts["id"] == facts["sha256"][:12]
        ids.append(facts["id"])
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("spoil", "gate"),
    [
        (lambda rows: [r | {"text": None} if i % 50 == 0 else r for i, r in enumerate(rows)], "missing_rate"),
        (lambda rows: [r | {"text": "A" * 900} if i % 100 == 0 else r for i, r in enumerate(rows)], "outlier_rate"),
        (lambda rows: [{**r, "extra": 1} if i == 7 else r for i, r in enumerate(rows)], "schema_errors"),
        (lambda rows: [r | {"position": "0"} if i == 7 else r for i, r in enumerate(rows)], "schema_errors"),
        (lambda rows: rows[:3], "train_chars"),
        (lambda rows: [], "missing_rate"),
    ],
)
def test_a_spoilt_snapshot_is_refused_by_the_gate_it_offends(tmp_path: Path, spoil: Any, gate: str) -> None:
    (tmp_path / "x.txt").write_text(prose(400))
    stage(tmp_path, "collect", collect, text="x.txt")
    stage(tmp_path, "snapshot", snapshot, ("collect",))
    for split in ("train", "heldout"):
        path = tmp_path / "snapshot" / "data" / f"{split}.jsonl"
        rows = spoil([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert gate in failed(stage(tmp_path, "validate", validate, ("snapshot",)))


def test_a_line_that_is_no_json_is_a_schema_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(prose(400))
    stage(tmp_path, "collect", collect, text="x.txt")
    stage(tmp_path, "snapshot", snapshot, ("collect",))
    with (tmp_path / "snapshot" / "data" / "train.jsonl").open("a") as file:
        file.write('{"document": "x.txt", "posi')
    assert failed(stage(tmp_path, "validate", validate, ("snapshot",))) == ["schema_errors"]


def test_a_text_that_is_too_short_is_refused_and_duplicates_are_only_warned_of(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n\n".join(["the same words again and again, as before"] * 400))
    result = until_validate(tmp_path, "x.txt")
    assert failed(result) == ["heldout_chars"] or failed(result) == ["train_chars"]
    warned = [gate.name for gate in result.gates if not gate.passed and not gate.blocking]
    assert warned == ["duplicate_rate"]


def test_a_refused_text_leaves_nothing_half_made(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"\0\1\2")
    with pytest.raises(TextRefused, match="is binary"):
        stage(tmp_path, "collect", collect, text="x.bin")
    assert list((tmp_path / "collect").iterdir()) == []


def test_an_unknown_or_wrong_parameter_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"collect\.txet: is not a parameter"):
        stage(tmp_path, "collect", collect, txet="x")
    (tmp_path / "collect").rmdir()
    with pytest.raises(UsageError, match=r"collect\.max_bytes"):
        stage(tmp_path, "collect", collect, max_bytes=0)
