"""Reviewing a stream while it passes: what might still become a finding is held back until what follows is known.

Each channel's last `window_chars` characters wait. A finding longer than that may have begun to pass before it was seen.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from adapters.access import SafetyRule
from engine.gateway.access.safety.answer import Channel, Place, data_of, drop_logprobs, encoded, json_of, places_in
from engine.gateway.access.safety.hooks import HookFailed, Question
from engine.gateway.access.safety.patterns import Span, merged
from engine.gateway.access.safety.review import Blocked, Review, find
from engine.gateway.logs import log

MAX_EVENT_BYTES = 1 << 20
LONGEST_WAIT = 4
"""Windows that a finding which goes on and on may hold the stream back."""
_END = re.compile(rb"\r?\n\r?\n")
_PATTERNS = ("regex", "pii")


@dataclass(slots=True)
class _Text:
    """One channel: the text from `base` on; before `cleared` it may pass."""

    text: str = ""
    base: int = 0
    cleared: int = 0
    asked: int = 0
    """Hooks have seen it up to here."""
    spans: list[tuple[Span, str]] = field(default_factory=list)
    """What is to be redacted, in offsets of the whole channel."""

    @property
    def end(self) -> int:
        return self.base + len(self.text)


@dataclass(slots=True)
class _Event:
    raw: bytes
    body: Any
    pieces: list[tuple[Place, int, int]]
    """(place, start, end) in its channel's offsets."""


class StreamReview:
    """Takes a stream's bytes as they come and gives back what may be passed on."""

    def __init__(self, review: Review) -> None:
        self._review = review
        rules = review.rules("answer")
        self._patterns = tuple(rule for rule in rules if rule.kind in _PATTERNS)
        self._lengths = tuple(rule for rule in rules if rule.kind == "max_chars")
        self._hooks = tuple(rule for rule in rules if rule.kind in ("http", "command"))
        self._window = review.policy.window_chars
        self._rest = b""
        self._events: deque[_Event] = deque()
        self._channels: dict[Channel, _Text] = {}
        self._verdicts = {rule.name: "pass" for rule in rules}

    async def feed(self, chunk: bytes) -> bytes:
        """What may pass after `chunk` came. Raises Blocked."""
        *events, self._rest = _END.split(self._rest + chunk)
        if len(self._rest) > MAX_EVENT_BYTES:
            raise Blocked("stream", "answer", f"an event of it is larger than {MAX_EVENT_BYTES} bytes")
        for raw in events:
            self._take(raw)
        return await self._passed(is_over=False) if events else b""

    async def finish(self) -> bytes:
        """The rest of the stream, after its last byte came. Raises Blocked."""
        if self._rest.strip():
            self._take(self._rest)
            self._rest = b""
        passed = await self._passed(is_over=True)
        self.count()
        return passed

    def count(self) -> None:
        """Count each check once, by the worst it found."""
        for rule in self._review.rules("answer"):
            self._review.note(rule, self._verdicts[rule.name], "answer")

    def _take(self, raw: bytes) -> None:
        body = json_of(data_of(raw))
        event = _Event(raw, body, [])
        for place in places_in(body):
            channel = self._channels.setdefault(place.channel, _Text())
            start = channel.end
            channel.text += place.text
            event.pieces.append((place, start, channel.end))
        self._events.append(event)

    async def _passed(self, is_over: bool) -> bytes:
        for channel in self._channels.values():
            self._look(channel, is_over)
        if self._hooks:
            await self._ask(is_over)
        out = []
        while self._events and all(end <= self._channels[p.channel].cleared for p, _, end in self._events[0].pieces):
            out.append(self._rendered(self._events.popleft()))
        for channel in self._channels.values():
            self._forget(channel)
        return b"".join(out)

    def _look(self, channel: _Text, is_over: bool) -> None:
        for rule in self._lengths:
            if channel.end > rule.max_chars:
                self._found(rule, f"it has more than {rule.max_chars} characters")
        clear = channel.end if is_over else max(channel.cleared, channel.end - self._window)
        for rule in self._patterns:
            for (start, end), name in find(rule, channel.text):
                start, end = start + channel.base, end + channel.base
                if end <= channel.cleared:
                    continue  # seen and dealt with while it was held back
                is_long = channel.end - start > LONGEST_WAIT * self._window
                if end >= clear and not is_over and not is_long:
                    clear = max(channel.cleared, min(clear, start))  # it may go on: wait for where it ends
                    continue
                self._found(rule, f"it holds {name}" if rule.kind == "pii" else "it matches what is not allowed here")
                if rule.action == "redact":
                    channel.spans = merged([*channel.spans, ((start, end), name)])
        channel.cleared = clear

    async def _ask(self, is_over: bool) -> None:
        """Let hooks see what is new, a window at a time; what they have not seen does not pass."""
        fresh = {key: c for key, c in self._channels.items() if c.end > c.asked}
        if fresh and (is_over or any(c.end - c.asked >= self._window for c in fresh.values())):
            review = self._review
            question = Question("answer", review.service, review.env, review.release, review.tenant)
            for rule in self._hooks:
                try:
                    answer = await review.hooks.ask(rule, question, [c.text for c in fresh.values()])
                except HookFailed as error:
                    log(
                        "safety_hook_failed",
                        check=rule.name,
                        on="answer",
                        error=str(error),
                        fail_open=rule.is_fail_open,
                    )
                    if not rule.is_fail_open:
                        self._block(rule, "the check could not be made; try again")
                    self._verdicts[rule.name] = "error"
                    continue
                if not answer.ok and rule.action == "flag":
                    self._verdicts[rule.name] = "flag"
                elif not answer.ok:  # what a hook would put instead cannot be fitted into events: no redacting here
                    self._block(rule, answer.reason[:200] or "it is not allowed here")
            for channel in fresh.values():
                channel.asked = channel.end
        for channel in self._channels.values():
            channel.cleared = min(channel.cleared, channel.asked)

    def _found(self, rule: SafetyRule, reason: str) -> None:
        if rule.action == "block":
            self._block(rule, reason)
        self._verdicts[rule.name] = rule.action

    def _block(self, rule: SafetyRule, reason: str) -> None:
        self._verdicts[rule.name] = "block"
        self.count()
        raise Blocked(rule.name, "answer", reason)

    def _rendered(self, event: _Event) -> bytes:
        is_changed = False
        for place, start, end in event.pieces:
            text = _without(place.text, start, end, self._channels[place.channel].spans)
            if text != place.text:
                place.holder[place.field] = text
                is_changed = True
        if is_changed:
            drop_logprobs(event.body)
        return (b"data: " + encoded(event.body) if is_changed else event.raw) + b"\n\n"

    def _forget(self, channel: _Text) -> None:
        """Keep one window of what has passed: an expression may look behind."""
        waiting = [s for e in self._events for p, s, _ in e.pieces if self._channels[p.channel] is channel]
        keep_from = max(channel.base, min([channel.cleared, *waiting]) - self._window)
        channel.text, channel.base = channel.text[keep_from - channel.base :], keep_from
        channel.spans = [span for span in channel.spans if span[0][1] > keep_from]


def _without(text: str, start: int, end: int, spans: list[tuple[Span, str]]) -> str:
    """The piece [start, end) of a channel less what is redacted; `[name]` stands where a redaction begins."""
    parts, at = [], start
    for (first, last), name in spans:
        if last <= start or first >= end:
            continue
        if first >= start:
            parts += [text[at - start : first - start], f"[{name}]"]
        at = max(at, min(last, end))
    return "".join((*parts, text[at - start :]))
