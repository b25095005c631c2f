"""What a route says of access: which answers may be kept, and what is looked for in prompts and answers. Values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Which answers of a service may be given again. Seconds and bytes."""

    ttl_s: float
    is_always: bool = False
    """Also requests that ask for chance; else only temperature 0 or a seed."""
    is_shared: bool = False
    """One tenant's answers may be given to another."""
    max_answer_bytes: int = 256 << 10


@dataclass(frozen=True, slots=True)
class SafetyRule:
    """One check. `kind`: regex, pii, max_chars, http or command; `on`: prompt, answer or both."""

    name: str
    kind: str
    on: str
    action: str
    """What is done where it finds something: block, redact or flag."""
    patterns: tuple[str, ...] = ()
    """Of regex: regular expressions. Of pii: names of the built-in kinds."""
    max_chars: int = 0
    url: str = ""
    command: tuple[str, ...] = ()
    timeout_s: float = 1.0
    is_fail_open: bool = False
    """A hook that does not answer lets the text pass; else it is treated as found."""


@dataclass(frozen=True, slots=True)
class SafetyPolicy:
    """The checks of a service, in order. A stream's last `window_chars` characters wait for what follows them."""

    rules: tuple[SafetyRule, ...]
    window_chars: int = 200


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """What the gateway does with a service's requests and answers beyond passing them on."""

    cache: CachePolicy | None = None
    safety: SafetyPolicy | None = None
