"""Waiting for what goes on by itself. Leaving early changes nothing, and is said."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.conditions import Condition, progress_line
from console.commands.objects import fetch
from state.words import AirbossError, TimedOut, Unreachable

if TYPE_CHECKING:
    from console.commands.reading import Get

POLL_S = 0.4
GATE_SETTLE_S = 2.0
"""How long a human's gate must stand before it ends a wait: a resume, or the engine itself, may be about to lift it."""
ENGINE_PATIENCE_S = 60.0
"""How long an engine may be away in a wait: it is being restarted, and the work goes on."""


@dataclass(frozen=True, slots=True)
class WaitEnd:
    """How a wait ended: the object as it was last, and why it did not come to its condition, if it did not."""

    item: dict[str, Any]
    error: AirbossError | None


def wait_for(
    get: Get,
    ref: str,
    condition: Condition,
    timeout_s: float | None,
    say: Callable[[str], None] = diagnostics.note,
) -> WaitEnd:
    """Wait until `ref` meets `condition`, cannot any more, or the time is over. Ctrl-C raises Interrupted."""
    started = time.monotonic()
    item: dict[str, Any] = {}
    told, gate_since, away_since = "", None, None
    try:
        while True:
            try:
                item = fetch(get, ref)
                away_since = None
            except Unreachable as error:
                away_since = _away(away_since, error, ref, say)
            if item and away_since is None:
                if (line := progress_line(condition.kind, item)) != told:
                    told = line
                    say(line)
                stands = condition.standing(item)
                if stands.is_met or (stands.error and not stands.is_gate):
                    return WaitEnd(item, stands.error)
                gate_since = (gate_since or time.monotonic()) if stands.is_gate else None
                if gate_since and time.monotonic() - gate_since >= GATE_SETTLE_S:
                    return WaitEnd(item, stands.error)
            if timeout_s is not None and time.monotonic() - started >= timeout_s:
                return WaitEnd(
                    item,
                    TimedOut(
                        f"{ref} has not come to `{condition.text}` within {timeout_s:g} s: {told or 'unknown'}",
                        hint="it goes on; wait again, or look at it",
                    ),
                )
            time.sleep(POLL_S if timeout_s is None else max(0.01, min(POLL_S, started + timeout_s - time.monotonic())))
    except KeyboardInterrupt:
        raise diagnostics.Interrupted(
            f"{ref} is left running; `airboss {ref.replace('/', ' show ')}` looks at it"
        ) from None


def _away(since: float | None, error: Unreachable, ref: str, say: Callable[[str], None]) -> float:
    now = time.monotonic()
    if since is None:
        say(
            f"the engine does not answer; {ref} goes on without this wait, which tries for {ENGINE_PATIENCE_S:.0f} s more"
        )
        return now
    if now - since > ENGINE_PATIENCE_S:
        raise error
    return since
