"""Is this replica fit for traffic? A pure answer from what the engine shows."""

from __future__ import annotations

from engine.serving.loop import EngineStatus, LoopState


def why_not_ready(status: EngineStatus, *, now: float, stuck_after_s: float, is_draining: bool) -> str | None:
    """None when requests may come; else the reason, as /ready says it. `now` is monotonic.

    Loaded is not enough: a real token must have come out, and the loop must still be moving. A full queue is no
    reason: ejecting a busy replica would only move its load to the others.
    """
    if status.state is LoopState.DEAD:
        return f"the engine died: {status.detail}"
    if status.state is LoopState.STOPPED:
        return "the engine has stopped"
    if status.state is LoopState.STARTING:
        return f"starting: {status.detail}"
    if is_draining:
        return "draining: this replica is leaving"
    if status.tokens_generated < 1:
        return "no token was generated yet"
    for at in (status.beat_at, status.progress_at):
        if now - at > stuck_after_s:
            return f"the engine is stuck: no step has finished for {now - at:.1f} s"
    return None
