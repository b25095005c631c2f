"""What is said of an answer's text by checks that need nobody else. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from adapters.measures import QualityCheck, QualityPolicy

KINDS = ("matches", "forbids", "json", "refusal", "length", "http", "command")
ASKED = ("http", "command")
"""Kinds that somebody else answers."""
REFUSAL_CHARS = 200
"""A refusal is said first; the word "cannot" further down is no refusal."""
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am) (?:very |so |really )?sorry,? (?:but )?(?:i|we)\b|i (?:can(?:['’]t|not)|am (?:not able|unable) to|"
    r"won['’]t be able to) (?:help|assist|comply|provide|answer|fulfil?l|do that|create|discuss)|as an ai(?: language)? model)"
    r"|对不起，?我(?:不能|无法)|抱歉，?我(?:不能|无法)|作为(?:一个)?(?:人工智能|AI)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?```\s*$", re.DOTALL)


def is_good(check: QualityCheck, text: str) -> bool:
    """The built-in check's word on a text."""
    match check.kind:
        case "matches":
            return re.search(check.pattern, text) is not None
        case "forbids":
            return re.search(check.pattern, text) is None
        case "json":
            return _is_json(text)
        case "refusal":
            return _REFUSAL.search(text[:REFUSAL_CHARS]) is None
        case _:
            return len(text) >= check.min_chars and (not check.max_chars or len(text) <= check.max_chars)


def _is_json(text: str) -> bool:
    """An object or an array, alone or in one fence."""
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict | list)


def quality_problems(policy: QualityPolicy) -> Iterator[str]:
    """What makes the policy one that must not be served."""
    names = [check.name for check in policy.checks]
    if len(set(names)) != len(names):
        yield "two quality checks have one name"
    if not 0 < policy.sample <= 100:
        yield f"quality sample {policy.sample} must lie between 0 and 100"
    if policy.concurrency < 1 or policy.queue < 1:
        yield "quality concurrency and queue must be at least 1"
    for check in policy.checks:
        if check.kind not in KINDS:
            yield f"quality check {check.name}: no kind {check.kind!r}; there is {', '.join(KINDS)}"
        if not 0 < check.timeout_s <= 60:
            yield f"quality check {check.name}: timeout_s {check.timeout_s} must lie between 0 and 60"
        try:
            re.compile(check.pattern)
        except re.error as error:
            yield f"quality check {check.name}: {check.pattern!r} is no regular expression: {error}"
