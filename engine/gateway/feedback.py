"""Users' word on an answer: `POST /feedback {"request_id", "value": "up" | "down", "kind"?}`. No text is taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from engine.gateway.ids import RequestId, decode_request_id
from engine.gateway.ledger import Spool

KINDS = ("explicit", "implicit", "system")
VALUES = ("up", "down")


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)
    request_id: str
    value: Literal["up", "down"]
    kind: Literal["explicit", "implicit", "system"] = "explicit"


@dataclass(frozen=True, slots=True)
class Entry:
    """One word on one answer. The id holds the release that gave it."""

    request_id: RequestId
    kind: str
    value: str


def read_feedback(body: bytes) -> Entry:
    """The entry that JSON `body` states. Raises ValueError with what is wrong."""
    try:
        read = _Body.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'the body'}: {first['msg']}") from None
    return Entry(decode_request_id(read.request_id), read.kind, read.value)


class Feedback:
    """Counts entries and writes them to a file beside the ledger."""

    def __init__(self, spool: Spool) -> None:
        self.spool = spool
        self.counts = {(kind, value): 0 for kind in KINDS for value in VALUES}

    def take(self, entry: Entry, now: float, client_id: str) -> None:
        """Take one entry."""
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
            }
        )
