"""What makes a route's access policy one that must not be served. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from adapters.access import AccessPolicy, SafetyRule
from engine.gateway.access.safety.patterns import PII, compiled

KINDS = ("regex", "pii", "max_chars", "http", "command")


def access_problems(policy: AccessPolicy) -> Iterator[str]:
    """Every fault of the policy."""
    if policy.cache is not None and not 0 < policy.cache.ttl_s <= 30 * 86_400:
        yield f"cache ttl_s {policy.cache.ttl_s} must lie between 0 and 30 days"
    if policy.safety is None:
        return
    names = [rule.name for rule in policy.safety.rules]
    if len(set(names)) != len(names):
        yield "two safety rules have one name"
    if not 1 <= policy.safety.window_chars <= 100_000:
        yield f"window_chars {policy.safety.window_chars} must lie between 1 and 100000"
    for rule in policy.safety.rules:
        yield from (f"safety rule {rule.name}: {what}" for what in _rule_problems(rule))


def _rule_problems(rule: SafetyRule) -> Iterator[str]:
    if rule.kind not in KINDS:
        yield f"no kind {rule.kind!r}; there is {', '.join(KINDS)}"
    if rule.on not in ("prompt", "answer", "both"):
        yield f"on {rule.on!r} must be prompt, answer or both"
    if rule.action not in ("block", "redact", "flag"):
        yield f"action {rule.action!r} must be block, redact or flag"
    if rule.kind == "max_chars" and rule.action == "redact":
        yield "a length cannot be redacted"
    if rule.kind == "pii" and (unknown := set(rule.patterns) - set(PII)):
        yield f"no kind of personal data {min(unknown)!r}; there is {', '.join(PII)}"
    if rule.kind == "http" and not rule.url.startswith(("http://", "https://")):
        yield f"{rule.url!r} is no http address"
    if rule.kind == "command" and not rule.command:
        yield "it names no command"
    if not 0 < rule.timeout_s <= 60:
        yield f"timeout_s {rule.timeout_s} must lie between 0 and 60"
    for pattern in rule.patterns if rule.kind == "regex" else ():
        try:
            compiled(pattern)
        except re.error as error:
            yield f"{pattern!r} is no regular expression: {error}"
