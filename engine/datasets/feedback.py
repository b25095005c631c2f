"""Feedback as the gateway's workers wrote it: read from their files, withdrawals honoured, and made into examples. `chosen` is pure."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.pipelines.stages.redaction import redact

PATTERN = "feedback-*.jsonl"


@dataclass(frozen=True, slots=True)
class Word:
    """One user's word on one answer. Texts are redacted, and "" where none was given."""

    request_id: str
    at: float
    release: str
    kind: str
    value: str
    client_id: str = ""
    rating: int | None = None
    signal: str = ""
    prompt: str = ""
    answer: str = ""
    correction: str = ""
    consent: bool = False
    withdraw: bool = False

    @property
    def has_text(self) -> bool:
        """It holds something to learn from."""
        return bool(self.answer or self.correction)


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and what should have been answered to it, by the word of `request_id`'s user."""

    prompt: str
    completion: str
    request_id: str
    release: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """As a line of the data set; `text` is what is trained on."""
        return {
            "text": self.prompt + self.completion, "prompt": self.prompt, "completion": self.completion,
            "request_id": self.request_id, "release": self.release, "why": self.why,
        }  # fmt: skip


@dataclass(slots=True)
class Chosen:
    """The examples, in the order of time, and how many words were left out, by reason."""

    examples: list[Example] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    redactions: Counter[str] = field(default_factory=Counter)


def read_words(directory: Path) -> Iterator[Word]:
    """Every whole line of every worker's feedback files. Blocks. A line that cannot be read is passed over."""
    for path in sorted(directory.glob(PATTERN)):
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                if (word := _word(line)) is not None:
                    yield word


def _word(line: str) -> Word | None:
    try:
        body = json.loads(line)
        return Word(
            request_id=str(body["request_id"]), at=float(body["at"]), release=str(body["release"]), kind=str(body["kind"]),
            value=str(body["value"]), client_id=str(body.get("client_id", "")), rating=body.get("rating"),
            signal=str(body.get("signal", "")), prompt=str(body.get("prompt", "")), answer=str(body.get("answer", "")),
            correction=str(body.get("correction", "")), consent=body.get("consent") is True,
            withdraw=body.get("withdraw") is True,
        )  # fmt: skip
    except (ValueError, KeyError, TypeError):
        return None


def chosen(words: Iterable[Word], releases: frozenset[str], since: float = 0.0) -> Chosen:
    """Examples of what users said of answers of `releases` since `since` (Unix seconds).

    A correction says what should have been answered; an answer that was praised says so itself. Only text of those who
    consented, and did not take it back, is used; it is redacted once more, by the rules of today. The newest word of a
    caller on a request stands; two corrections of one prompt by different callers are both kept.
    """
    found = Chosen()
    newest: dict[tuple[str, str], Word] = {}
    withdrawn: dict[str, float] = {}
    for word in sorted(words, key=lambda w: w.at):
        key = (word.request_id, word.client_id)
        if word.withdraw:
            withdrawn[word.request_id] = word.at
        elif word.at < since:
            found.left_out["too old"] += 1
        elif word.release not in releases:
            found.left_out["of another service or release"] += 1
        elif (before := newest.get(key)) is None:
            newest[key] = word
        else:
            found.left_out["said anew later"] += 1
            newest[key] = word if word.has_text else replace(before, value=word.value)
    seen: set[str] = set()
    for word in sorted(newest.values(), key=lambda w: (w.at, w.request_id, w.client_id)):
        why = left_out_for(word, withdrawn)
        if why:
            found.left_out[why] += 1
            continue
        texts = [redact(text) for text in (word.prompt, word.correction or word.answer)]
        digest = hashlib.sha256("\0".join(one.text for one in texts).encode()).hexdigest()
        if digest in seen:
            found.left_out["a duplicate"] += 1
            continue
        seen.add(digest)
        for one in texts:
            found.redactions.update(one.counts)
        found.examples.append(
            Example(
                texts[0].text,
                texts[1].text,
                word.request_id,
                word.release,
                "corrected" if word.correction else "praised",
            )
        )
    return found


def left_out_for(word: Word, withdrawn: Mapping[str, float]) -> str:
    """Why a word makes no example; "" when it makes one."""
    if not word.has_text:
        return "no text"
    if not word.consent:
        return "no consent"
    if withdrawn.get(word.request_id, -1.0) >= word.at:
        return "consent withdrawn"
    if word.correction:
        return ""
    return "" if word.value == "up" and word.answer else "nothing better is known"


def ratings(words: Iterable[Word]) -> dict[str, Counter[str]]:
    """Release → how many explicit words of each value, the newest of each caller on each request counted once."""
    newest: dict[tuple[str, str], Word] = {}
    for word in words:
        key = (word.request_id, word.client_id)
        if word.kind == "explicit" and not word.withdraw and (key not in newest or newest[key].at <= word.at):
            newest[key] = word
    found: dict[str, Counter[str]] = {}
    for word in newest.values():
        found.setdefault(word.release, Counter())[word.value] += 1
    return found
