"""A batch's files: what was written is found again, half a line is mended, and nothing of somebody else's is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.serving.batch_file import BatchLine, Outbox, finished_before, lines_of
from state.words import OperationFailed, UsageError


def test_half_a_line_at_the_end_is_cut_off_and_asked_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with Outbox(out) as outbox:
        for name in "ab":
            outbox.write(BatchLine(name, name).answered(200, {"text": "x\u2028y"}))
    whole = out.read_bytes()
    out.write_bytes(whole + b'{"id":"batch_req_c","custom_id":"c","resp')
    assert finished_before(out) == {"a", "b"}
    assert out.read_bytes() == whole
    assert finished_before(tmp_path / "none.jsonl") == set()


def test_a_file_that_holds_no_answers_is_left_as_it_is(tmp_path: Path) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("dear diary\nno newline at the end")
    with pytest.raises(UsageError, match="line 1"):
        finished_before(diary)
    assert diary.read_text() == "dear diary\nno newline at the end"


def test_a_line_that_is_no_request_says_why_and_is_known_again(tmp_path: Path) -> None:
    batch = tmp_path / "in.jsonl"
    good = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
    batch.write_text("\n".join([json.dumps(good), "{broken", "", '{"custom_id": 3}', json.dumps(good)]))
    first, broken, unnamed, twice = lines_of(batch)
    assert (first.custom_id, first.url, first.problem) == ("a", "/v1/completions", "")
    assert (broken.key, unnamed.key, twice.key) == ("line-2", "line-4", "line-5")
    assert "not JSON" in broken.problem and "custom_id" in unnamed.problem and "earlier line" in twice.problem
    assert broken.refused()["error"]["code"] == "invalid_line"


def test_a_full_disk_ends_the_batch_with_a_sentence() -> None:
    with pytest.raises(OperationFailed, match="cannot be written any further"):
        Outbox(Path("/dev/full")).write({"id": "batch_req_a"})


def test_a_name_that_is_no_text_is_answered_under_that_name_and_known_again(tmp_path: Path) -> None:
    batch, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    batch.write_text('{"custom_id": "a\\ud800", "body": {}}')
    (line,) = lines_of(batch)
    with Outbox(out) as outbox:
        outbox.write(line.answered(200, {"text": "é"}))
    assert json.loads(out.read_bytes())["custom_id"] == "a\ud800"
    assert finished_before(out) == {line.key}
