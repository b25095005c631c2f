"""An answer's way through: reviewed before the client sees it, and noted down if it is to be given again."""

from __future__ import annotations

import json

from engine.gateway.access.cache import Keeping
from engine.gateway.access.safety.answer import drop_logprobs, encoded, json_of, places_in, with_texts
from engine.gateway.access.safety.review import Blocked, Review
from engine.gateway.access.safety.streaming import StreamReview

EVENTS = "text/event-stream"


class Passage:
    """Of one answer. `begin` once, then `whole`, or `chunk` for each and `last`."""

    def __init__(self, review: Review | None, keeping: Keeping | None) -> None:
        self._review = review if review is not None and review.rules("answer") else None
        self.keeping = keeping
        self._stream: StreamReview | None = None
        self._is_readable = True

    def begin(self, status: int, content_type: str, encoding: str) -> None:
        """An answer with these headers comes."""
        self._is_readable = encoding.lower() in ("", "identity")
        if self.keeping is not None:
            is_kept = status == 200 and self._is_readable and content_type in (EVENTS, "application/json")
            self.keeping.content_type = content_type
            self.keeping.parts, self.keeping.size = ([] if is_kept else None), 0
        self._stream = StreamReview(self._review) if self._review is not None and content_type == EVENTS else None

    def must_be_whole(self, content_type: str) -> bool:
        """The answer can only be reviewed when all of it is here."""
        return self._review is not None and content_type != EVENTS

    async def whole(self, data: bytes) -> bytes:
        """The answer as it may be passed on. Raises Blocked."""
        if self._review is not None:
            data = await self._reviewed(self._review, data)
        if self.keeping is not None:
            self.keeping.add(data)
        return data

    async def chunk(self, data: bytes) -> bytes:
        """What may be passed on now that `data` came; b"" when all must wait. Raises Blocked."""
        if self._stream is not None:
            data = await self._stream.feed(data)
        if self.keeping is not None:
            self.keeping.add(data)
        return data

    async def last(self) -> bytes:
        """What is left when all has come. Raises Blocked."""
        if self._stream is None:
            return b""
        data = await self._stream.finish()
        if self.keeping is not None:
            self.keeping.add(data)
        return data

    async def _reviewed(self, review: Review, data: bytes) -> bytes:
        body = json_of(data) if self._is_readable else None
        if body is None:
            raise Blocked("format", "answer", "it is no JSON, so it cannot be checked")
        places = list(places_in(body))
        before = [place.text for place in places]
        after = await review.texts("answer", before)
        if after == before:
            return data
        with_texts(places, after)
        drop_logprobs(body)
        return encoded(body)


def violation_event(message: str) -> bytes:
    """The error that a stream ends with when its text was refused."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "content_policy_violation"}
    return f"data: {json.dumps({'error': error})}\n\ndata: [DONE]\n\n".encode()
