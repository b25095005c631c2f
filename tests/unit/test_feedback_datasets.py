"""Users' feedback: what the gateway takes of it, what of it becomes data, and where each line of that comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.datasets.build import build, dataset_of, edges
from engine.datasets.feedback import chosen, ratings, read_words
from engine.gateway.feedback import Feedback, read_feedback, redacted
from engine.gateway.ids import new_request_id
from engine.pipelines.recorder import Facts
from engine.pipelines.stage import StageContext
from engine.pipelines.stages import collect

MAIL = "ann@example.org"


def ask(at: float = 1e9, release: str = "chat-1") -> str:
    return str(new_request_id(at, release, 3))


class Lines:
    """A spool that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def add(self, line: dict[str, Any]) -> None:
        self.lines.append(line)


def said(spool: Lines, at: float, who: str = "u1", **body: Any) -> None:
    """What the gateway writes for a body, by the gateway's own code."""
    entry = read_feedback(json.dumps(body).encode())
    Feedback(spool, takes_text=True).take(entry, at, who, redacted(entry.texts) if entry.texts else None)  # type: ignore[arg-type]


def words(tmp_path: Path, spool: Lines) -> list[Any]:
    (tmp_path / "feedback-gw-1-1.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in spool.lines) + "not json\n"
    )
    return list(read_words(tmp_path))


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "says nothing"),
        ({"correction": "x"}, "consent"),
        ({"value": "up", "prompt": "x"}, "consent"),
        ({"rating": 6}, "rating"),
        ({"signal": "frown"}, "signal"),
        ({"correction": "x" * 20_000, "consent": True}, "correction"),
    ],
)
def test_what_says_nothing_or_lacks_consent_is_refused(body: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_feedback(json.dumps({"request_id": ask(), **body}).encode())


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        ({"rating": 5}, "explicit", "up"),
        ({"rating": 3}, "explicit", "neutral"),
        ({"rating": 1}, "explicit", "down"),
        ({"signal": "regenerate"}, "implicit", "down"),
        ({"signal": "dwell", "dwell_s": 12.5}, "implicit", "neutral"),
        ({"signal": "click"}, "implicit", "up"),
        ({"value": "down", "kind": "system"}, "system", "down"),
        ({"correction": "y", "consent": True}, "explicit", "down"),
    ],
)
def test_every_signal_of_the_loop_has_its_kind_and_value(body: dict[str, Any], kind: str, value: str) -> None:
    entry = read_feedback(json.dumps({"request_id": ask(), **body}).encode())
    assert (entry.kind, entry.value) == (kind, value)


def test_text_is_redacted_before_it_is_written() -> None:
    spool = Lines()
    said(spool, 1.0, request_id=ask(), prompt=f"I am {MAIL}. Who are you?", correction="A model.", consent=True)
    assert MAIL not in json.dumps(spool.lines)
    assert spool.lines[0]["prompt"] == "I am <EMAIL>. Who are you?"
    assert spool.lines[0]["redactions"] == {"email": 1}


def test_only_what_a_user_consented_to_and_did_not_take_back_becomes_data(tmp_path: Path) -> None:
    spool, ids = Lines(), [ask(1e9 + n) for n in range(7)]
    said(spool, 1.0, request_id=ids[0], prompt="2+2=", correction="4", consent=True)
    said(spool, 2.0, request_id=ids[1], prompt="2+3=", answer="5", value="up", consent=True)
    said(spool, 3.0, request_id=ids[2], prompt="2+4=", answer="7", value="down", consent=True)
    said(spool, 4.0, request_id=ids[3], prompt="2+5=", correction="7", consent=True)
    said(spool, 5.0, request_id=ids[3], withdraw=True)
    said(spool, 6.0, request_id=ids[4], value="up")
    said(spool, 7.0, request_id=ask(release="bot-1"), prompt="2+6=", correction="8", consent=True)
    said(spool, 8.0, request_id=ids[5], prompt="2+2=", correction="4", consent=True)
    said(spool, 9.0, request_id=ids[6], prompt="2+7=", answer="9", rating=5, consent=True)
    said(spool, 10.0, request_id=ids[6], value="down")
    spool.lines.append({**spool.lines[0], "request_id": ask(), "consent": False})
    found = chosen(words(tmp_path, spool), frozenset({"chat-1"}))
    assert [(e.prompt, e.completion, e.request_id, e.why) for e in found.examples] == [
        ("2+2=", "4", ids[0], "corrected"),
        ("2+3=", "5", ids[1], "praised"),
    ]
    assert found.left_out == {
        "nothing better is known": 2, "consent withdrawn": 1, "no text": 1, "of another service or release": 1,
        "a duplicate": 1, "no consent": 1, "said anew later": 1,
    }  # fmt: skip
    assert not chosen(words(tmp_path, spool), frozenset({"chat-1"}), since=100.0).examples
    assert ratings(words(tmp_path, spool))["chat-1"] == {"down": 6, "up": 2}


def test_a_data_set_is_what_it_was_made_of_and_a_stage_collects_it(tmp_path: Path) -> None:
    spool, one = Lines(), ask()
    said(spool, 1.0, request_id=one, prompt="Who? ", correction="A model.", consent=True)
    found = chosen(words(tmp_path, spool), frozenset({"chat-1"}))
    built = build(tmp_path, "fixes", "chat", found)
    again = build(tmp_path, "fixes", "chat", found)
    assert (again.path, again.is_new, built.is_new) == (built.path, False, True)
    assert built.path.name == f"fixes-{built.id}" and built.path.stat().st_mode & 0o077 == 0
    assert edges(built.id, found.examples) == [
        (f"dataset:{built.id}", f"request:{one}", "corrected"),
        (f"request:{one}", "release:chat-1", "answered_by"),
    ]
    (tmp_path / "corpus.txt").write_text("The corpus.")
    out = tmp_path / "out"
    out.mkdir()
    ctx = StageContext("run-1", "collect", {"text": "corpus.txt", "also": f"datasets/{built.path.name}"}, {}, out, None,
                       {"workspace": str(tmp_path)})  # fmt: skip
    result = collect.run(ctx)
    assert result.facts["included"] == [built.id]
    assert Facts.gather({"collect": result.facts, "validate": {}}, {}).included == (built.id,)
    texts = [json.loads(line)["text"] for line in (out / "documents.jsonl").read_text().splitlines()]
    assert texts == ["The corpus.", "Who? A model."]
    (built.path / "documents.jsonl").write_text("{}\n")
    assert dataset_of(built.path) is None
