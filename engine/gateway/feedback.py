"""Users' word on an answer: `POST /feedback`, counted and written to a file beside the ledger.

`{"request_id", "value": "up" | "down" | "neutral"}`, or in its place `"rating"` 1 to 5, or `"signal"` (regenerate, stop, click, dwell);
`"kind"` is explicit, implicit (that of a signal) or system. Texts (`prompt`, `answer`, `correction`) are taken only with
`"consent": true` and only where `[gateway] feedback_text` is on; what is personal in them is redacted before anything is written.
`"withdraw": true` takes the consent to a request's texts back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.gateway.ids import RequestId, decode_request_id
from engine.gateway.ledger import Spool
from engine.pipelines.stages.redaction import RULES_VERSION, redact

KINDS = ("explicit", "implicit", "system")
VALUES = ("up", "down", "neutral")
SIGNALS = {"regenerate": "down", "stop": "down", "click": "up", "dwell": "neutral"}
TEXTS = ("prompt", "answer", "correction")
MOST_CHARS = 16_384
Text = Annotated[str, Field(max_length=MOST_CHARS)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    request_id: str
    value: Literal["up", "down", "neutral"] | None = None
    kind: Literal["explicit", "implicit", "system"] | None = None
    rating: int | None = Field(default=None, ge=1, le=5)
    signal: Literal["regenerate", "stop", "click", "dwell"] | None = None
    dwell_s: float | None = Field(default=None, ge=0, le=86_400)
    prompt: Text = ""
    answer: Text = ""
    correction: Text = ""
    consent: bool = False
    withdraw: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.withdraw:
            return self
        if self.value is None and self.rating is None and self.signal is None and not self.correction:
            raise ValueError("it says nothing: give value, rating, signal or correction")
        if self.has_text and not self.consent:
            raise ValueError('text is kept only with the user\'s consent: add "consent": true, or leave the text out')
        return self

    @property
    def has_text(self) -> bool:
        return any(getattr(self, name) for name in TEXTS)

    def said(self) -> str:
        """up, down or neutral, by what was given."""
        if self.value is not None:
            return self.value
        if self.rating is not None:
            return "up" if self.rating > 3 else "down" if self.rating < 3 else "neutral"
        return SIGNALS[self.signal] if self.signal is not None else "neutral" if self.withdraw else "down"


@dataclass(frozen=True, slots=True)
class Entry:
    """One word on one answer. The id holds the release that gave it. `more` is what a line has besides; `texts` are as sent."""

    request_id: RequestId
    kind: str
    value: str
    more: dict[str, object] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)


def read_feedback(body: bytes) -> Entry:
    """The entry that JSON `body` states. Raises ValueError with what is wrong."""
    try:
        read = _Body.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
    more = {
        name: value
        for name in ("rating", "signal", "dwell_s", "withdraw")
        if (value := getattr(read, name)) not in (None, False)
    }
    kind = read.kind or ("implicit" if read.signal else "explicit")
    texts = {name: text for name in TEXTS if (text := getattr(read, name))}
    return Entry(decode_request_id(read.request_id), kind, read.said(), more, texts)


def redacted(texts: dict[str, str]) -> dict[str, object]:
    """The texts as they are written, with what was found in them. Takes milliseconds for long ones."""
    found = {name: redact(text) for name, text in texts.items()}
    counts: dict[str, int] = {}
    for one in found.values():
        for rule, count in one.counts.items():
            counts[rule] = counts.get(rule, 0) + count
    return {
        **{name: one.text for name, one in found.items()},
        "redactions": counts,
        "rules": RULES_VERSION,
        "consent": True,
    }


class Feedback:
    """Counts entries and writes them to a file beside the ledger. `takes_text`: whether texts are kept at all."""

    def __init__(self, spool: Spool, *, takes_text: bool = False) -> None:
        self.spool = spool
        self.takes_text = takes_text
        self.counts = {(kind, value): 0 for kind in KINDS for value in VALUES}

    def take(self, entry: Entry, now: float, client_id: str, texts: dict[str, object] | None = None) -> None:
        """Take one entry; `texts` is what `redacted` made of its texts."""
        if "withdraw" not in entry.more:
            self.counts[entry.kind, entry.value] += 1
        self.spool.add(
            {
                "request_id": str(entry.request_id),
                "at": round(now, 3),
                "release": entry.request_id.release_id,
                "revision": entry.request_id.revision,
                "kind": entry.kind,
                "value": entry.value,
                "client_id": client_id,
                **entry.more,
                **(texts or {}),
            }
        )
