"""References: `rollout/ro-1` or, where the kind is clear, `ro-1`. And the request that a verb on one makes."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from state.words import UsageError

if TYPE_CHECKING:
    from engine.api.schemas import VerbRequest

KINDS = (
    "service",
    "rollout",
    "run",
    "release",
    "alert",
    "env",
    "pipeline",
    "trigger",
    "dataset",
    "prompt",
    "slo",
    "silence",
    "glass",
    "hook",
    "delivery",
    "engine",
    "request",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]*")


def ref_of(kind: str, text: str) -> str:
    """`kind/NAME` for a name, or for a reference of that kind. Raises UsageError for another kind's or no name at all."""
    given, slash, name = text.partition("/")
    if not slash:
        given, name = kind, text
    if given != kind:
        raise UsageError(
            f"{text!r} is a {given}; this wants a {kind}", hint=f"for example {kind}/{_EXAMPLE.get(kind, 'NAME')}"
        )
    if not _NAME.fullmatch(name):
        raise UsageError(f"{text!r} is no {kind}'s name", hint=f"for example {_EXAMPLE.get(kind, 'NAME')}")
    return f"{kind}/{name}"


def any_ref(text: str) -> str:
    """A reference of any kind, as given: `kind/NAME`, `kind:NAME`, or a bare name that the engine resolves."""
    kind, sep, name = text.partition("/") if "/" in text else text.partition(":")
    if sep and kind in KINDS and name:
        return f"{kind}/{name}"
    if not text or any(ch.isspace() for ch in text):
        raise UsageError(
            f"{text!r} is no reference", hint="for example service/chat, rollout/ro-1, run/run-2, release/charlm-3"
        )
    return text


def name_of(ref: str) -> str:
    """The name in a reference: `ro-1` of `rollout/ro-1`."""
    return ref.partition("/")[2] or ref


def verb_request(verb: str, ref: str, *, break_glass: bool = False, **args: Any) -> VerbRequest:
    """The request for `verb` on `ref`; arguments that are None are left out."""
    from engine.api.schemas import VerbRequest

    given = {key: value for key, value in args.items() if value is not None}
    return VerbRequest(verb=verb, ref=ref, args=given, break_glass=break_glass)


def instant(text: str, option: str, hint: str) -> float:
    """Unix seconds of an RFC 3339 time with its offset, where a duration was not meant. Raises UsageError."""
    from datetime import datetime

    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None or when.tzinfo is None:
        raise UsageError(f"{option} {text}: neither a duration nor a time with an offset", hint=hint)
    return when.timestamp()


def seconds_until(text: str) -> float:
    """Seconds from now to `--until`: an RFC 3339 time with its offset, or a duration. Raises UsageError."""
    from state.config_types import parse_duration

    try:
        return parse_duration(text)
    except ValueError:
        at = instant(text, "--until", hint="for example --until 2h, or --until 2026-11-21T18:00Z")
    if at <= time.time():
        raise UsageError(f"--until {text} is in the past", hint="give a time to come, or a duration such as 2h")
    return round(at - time.time(), 3)


def moment_of(text: str) -> str | None:
    """`--until` as it was named, when it is a moment: however often it is asked for, the same one. None for a duration."""
    from state.config_types import parse_duration

    try:
        parse_duration(text)
    except ValueError:
        return text
    return None


_EXAMPLE = {
    "service": "chat",
    "rollout": "ro-1",
    "run": "run-2",
    "release": "charlm-3",
    "alert": "3",
    "env": "production",
    "pipeline": "charlm",
    "silence": "2",
    "glass": "3",
    "trigger": "charlm.nightly",
    "hook": "chatops",
    "delivery": "12",
}
