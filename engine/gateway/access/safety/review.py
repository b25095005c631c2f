"""One request's review: every check of its route on its prompt and its answer, counted, and noted for the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from adapters.access import SafetyPolicy, SafetyRule
from engine.gateway.access.safety.hooks import HookFailed, Hooks, Question
from engine.gateway.access.safety.patterns import (
    PIECE_CHARS,
    Span,
    find_pii,
    find_pii_by_piece,
    find_regex,
    masked,
    merged,
)
from engine.gateway.logs import log

VERDICTS = ("pass", "flag", "redact", "block", "error")
"""`error`: a hook gave no answer and is fail-open; a fail-closed one's silence is a block."""

FOUND = ("flag", "redact", "block")


class CheckKey(NamedTuple):
    """The labels of `airboss_quality_checks_total`."""

    service: str
    env: str
    release: str
    track: str
    check: str
    verdict: str


class Blocked(Exception):
    """A check said no. The text is for the caller and holds nothing of what was found."""

    def __init__(self, check: str, on: str, reason: str) -> None:
        super().__init__(f"the {on} was refused by the check {check!r}: {reason}")


class CheckCounts:
    """How often each check said what."""

    def __init__(self) -> None:
        self.totals: dict[CheckKey, int] = {}

    def count(self, key: CheckKey) -> None:
        """Count one verdict."""
        self.totals[key] = self.totals.get(key, 0) + 1


@dataclass(slots=True, eq=False)
class Review:
    """The checks of one request. `verdicts` are those other than pass, by check, for the ledger."""

    policy: SafetyPolicy
    hooks: Hooks
    counts: CheckCounts
    service: str
    env: str
    release: str
    track: str
    tenant: str
    verdicts: dict[str, str] = field(default_factory=dict)
    is_answer_unsafe: bool = False
    """A check found something in the answer: the release's doing, where a prompt is the caller's."""

    def rules(self, on: str) -> tuple[SafetyRule, ...]:
        """The checks of the prompt, or of the answer."""
        return tuple(rule for rule in self.policy.rules if rule.on in (on, "both"))

    async def texts(self, on: str, texts: list[str]) -> list[str]:
        """`texts` as they may be passed on. Raises Blocked."""
        for rule in self.rules(on):
            verdict, texts, reason = await self._judge(rule, on, texts)
            self.note(rule, verdict, on)
            if verdict == "block":
                raise Blocked(rule.name, on, reason)
        return texts

    def note(self, rule: SafetyRule, verdict: str, on: str) -> None:
        """Count a verdict; of a check that spoke several times, the ledger has the last one that was no pass."""
        self.counts.count(CheckKey(self.service, self.env, self.release, self.track, rule.name, verdict))
        if verdict != "pass":
            self.verdicts[rule.name] = verdict
        if on == "answer" and verdict in FOUND:
            self.is_answer_unsafe = True

    async def _judge(self, rule: SafetyRule, on: str, texts: list[str]) -> tuple[str, list[str], str]:
        """(verdict, the texts after it, why)."""
        if rule.kind in ("http", "command"):
            return await self._ask(rule, on, texts)
        if rule.kind == "max_chars":
            total = sum(map(len, texts))
            reason = f"it has {total} characters; {rule.max_chars} are allowed"
            return ("pass" if total <= rule.max_chars else rule.action), texts, reason
        found = [merged(await _found_in(rule, text)) for text in texts]
        names = sorted({name for spans in found for _, name in spans})
        if not names:
            return "pass", texts, ""
        if rule.action == "redact":
            return "redact", [masked(text, spans) for text, spans in zip(texts, found, strict=True)], ""
        reason = f"it holds {', '.join(names)}" if rule.kind == "pii" else "it matches what is not allowed here"
        return rule.action, texts, reason

    async def _ask(self, rule: SafetyRule, on: str, texts: list[str]) -> tuple[str, list[str], str]:
        question = Question(on, self.service, self.env, self.release, self.tenant)
        try:
            answer = await self.hooks.ask(rule, question, texts)
        except HookFailed as error:
            log("safety_hook_failed", check=rule.name, on=on, error=str(error), fail_open=rule.is_fail_open)
            return ("error" if rule.is_fail_open else "block"), texts, "the check could not be made; try again"
        if answer.ok:
            return "pass", texts, ""
        reason = answer.reason[:200] or "it is not allowed here"
        if rule.action == "redact":
            return ("redact", answer.texts, reason) if answer.texts is not None else ("block", texts, reason)
        return rule.action, texts, reason


async def _found_in(rule: SafetyRule, text: str) -> list[tuple[Span, str]]:
    """What a pattern rule finds; other requests get their turn between the pieces of a long text."""
    found: list[tuple[Span, str]] = []
    if rule.kind == "pii":
        for piece in find_pii_by_piece(rule.patterns, text):
            found += piece
            if len(text) > PIECE_CHARS:
                await asyncio.sleep(0)
        return found
    for pattern in rule.patterns:
        found += find_regex((pattern,), text)
        if len(text) > PIECE_CHARS:
            await asyncio.sleep(0)
    return found


def find(rule: SafetyRule, text: str) -> Iterator[tuple[Span, str]]:
    """What a pattern rule finds in a text."""
    return find_regex(rule.patterns, text) if rule.kind == "regex" else find_pii(rule.patterns, text)
