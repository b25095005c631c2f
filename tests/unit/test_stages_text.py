"""Reading text, cutting it into records and splitting them: what is refused, what is stable."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.pipelines.stages.corpus import HELDOUT, LONGEST, TRAIN, paragraphs, records_of, split_of
from engine.pipelines.stages.text_source import TextRefused, read_source, topics
from engine.pipelines.stages.text_statistics import Unigram, outlier_reason, statistics_of

MB = 1_000_000


def test_the_interpreter_always_has_text() -> None:
    found = topics()
    assert len(found.documents) > 50
    assert sum(len(document.text or "") for document in found.documents) > 300_000


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no text in it"),
        (b" \n\t\n", "has no text in it"),
        (b"PK\x03\x04\0\0rest", "is binary, not text"),
        (b"caf\xe9 au lait", "is not UTF-8 text: byte 3"),
    ],
)
def test_a_file_that_is_no_text_is_refused_in_a_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "input.txt"
    path.write_bytes(content)
    with pytest.raises(TextRefused, match=sentence) as refused:
        read_source(path, MB)
    assert refused.value.hint


def test_missing_special_and_unreadable_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TextRefused, match="does not exist"):
        read_source(tmp_path / "none", MB)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TextRefused, match="neither a file nor a folder"):
        read_source(tmp_path / "pipe", MB)
    with pytest.raises(TextRefused, match="has no text in it"):
        read_source(tmp_path, MB)


def test_too_much_text_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "big.txt").write_text("x" * 2_000_001)
    with pytest.raises(TextRefused, match="more than 2 MB"):
        read_source(tmp_path, 2 * MB)


def test_a_folder_gives_its_text_files_in_order_and_names_the_others(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second", encoding="utf-8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "first.md").write_text("first\r\nline", encoding="utf-16")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text("hidden")
    source = read_source(tmp_path, MB)
    assert [(d.name, d.text) for d in source.documents] == [("a/first.md", "first\nline"), ("b.txt", "second")]
    assert source.skipped == ("picture.png",)


def test_a_folder_of_nothing_but_binaries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "one.bin").write_bytes(b"\0")
    with pytest.raises(TextRefused, match="none of the 1 files"):
        read_source(tmp_path, MB)


def test_lines_of_a_jsonl_file_are_documents_and_broken_ones_are_missing_text(tmp_path: Path) -> None:
    lines = ['{"text": "whole"}', '{"text": null}', "not json", '["text"]', '{"text": "\\ud800"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    source = read_source(tmp_path / "rows.jsonl", MB)
    assert [d.text for d in source.documents] == ["whole", None, None, None, None]


def test_paragraphs_keep_indentation_and_lose_blank_lines() -> None:
    assert list(paragraphs("one\n  two\n\n \n    indented\n\nlast\n")) == ["one\n  two", "    indented", "last"]


@given(st.text(alphabet="ab \n", max_size=9_000))
def test_paragraphs_lose_nothing_but_white_space_and_none_is_too_long(text: str) -> None:
    parts = list(paragraphs(text))
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(0 < len(part) <= LONGEST for part in parts)


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=30), st.integers(1, 50))
def test_a_paragraph_keeps_its_split_whatever_stands_around_it(texts: list[str], percent: int) -> None:
    alone = [split_of(text, percent) for text in texts]
    again = [split_of(f"  {text.upper().lower()} \n", percent) for text in reversed(texts)]
    for text, one, other in zip(texts, alone, reversed(again), strict=True):
        if text.upper().lower().casefold() == text.casefold():
            assert one == other


def test_about_a_tenth_is_held_out() -> None:
    splits = [split_of(f"paragraph {i}", 10) for i in range(5_000)]
    assert 400 < splits.count(HELDOUT) < 600
    assert splits.count(TRAIN) + splits.count(HELDOUT) == 5_000


def test_a_document_without_text_is_a_record_without_text() -> None:
    found = [record.text for record in records_of([{"name": "a", "text": None}, {"name": "b", "text": "x\n\ny"}], 10)]
    assert found == [None, "x", "y"]


def test_statistics_count_and_an_empty_text_has_none() -> None:
    found = statistics_of("ab ab\nü")
    assert (found.chars, found.lines, found.words, found.distinct_chars) == (7, 2, 3, 5)
    assert found.non_ascii_share == pytest.approx(1 / 7)
    assert statistics_of("aaaa").entropy_bits == 0
    assert statistics_of("abab").entropy_bits == pytest.approx(1.0)
    assert json.dumps(statistics_of("").to_json())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plain words\n", None),
        ("=" * 80, None),
        ("A" * 401, "blob"),
        ("ok \x00\x01\x02", "odd_characters"),
        ("\ufffd\ufffd", "odd_characters"),
    ],
)
def test_outliers_are_named(text: str, reason: str | None) -> None:
    assert outlier_reason(text) == reason


def test_a_unigram_model_gives_every_character_a_chance_and_sums_to_one() -> None:
    unigram = Unigram.train("aab", vocab_size=4)
    import math

    chances = [math.exp(-unigram.nats(char)) for char in "abcd"]
    assert sum(chances) == pytest.approx(1.0)
    assert chances[0] > chances[1] > chances[2] == chances[3]
