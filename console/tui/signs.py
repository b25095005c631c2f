"""Glyph, word and tone of every state: a state is never told by colour alone. Pure."""

from __future__ import annotations

from console.tui.text import Line, Span, line

GLYPHS: dict[str, tuple[str, str]] = {
    # rollouts
    "planned": ("○", "dim"),
    "awaiting_approval": ("?", "warn"),
    "preparing": ("◔", "info"),
    "shadowing": ("◔", "accent"),
    "step_applying": ("◑", "info"),
    "step_baking": ("◑", "accent"),
    "awaiting_promotion": ("?", "warn"),
    "promoting": ("◕", "info"),
    "verifying": ("◕", "info"),
    "completed": ("✓", "ok"),
    "paused": ("‖", "warn"),
    "rolling_back": ("◂", "bad"),
    "rolled_back": ("◂", "bad"),
    "superseded": ("–", "dim"),
    "cancelled": ("–", "dim"),
    "stuck": ("✗", "bad"),
    # steps
    "waiting": ("·", "dim"),
    "applying": ("◑", "info"),
    "baking": ("▸", "accent"),
    "passed": ("✓", "ok"),
    "done": ("✓", "ok"),
    "skipped": ("–", "dim"),
    # runs and stages
    "pending": ("·", "dim"),
    "running": ("▸", "accent"),
    "succeeded": ("✓", "ok"),
    "cached": ("≡", "ok"),
    "gate_failed": ("✗", "bad"),
    "failed": ("✗", "bad"),
    "timed_out": ("✗", "bad"),
    # verdicts
    "PASS": ("✓", "ok"),
    "FAIL": ("✗", "bad"),
    "INCONCLUSIVE": ("≈", "warn"),
    "NO_DATA": ("?", "warn"),
    # processes
    "ready": ("●", "ok"),
    "up": ("●", "ok"),
    "serving": ("●", "ok"),
    "starting": ("◔", "info"),
    "warming": ("◔", "info"),
    "draining": ("◂", "warn"),
    "restarting": ("↻", "warn"),
    "backoff": ("↻", "warn"),
    "crash_loop": ("✗", "bad"),
    "exited": ("✗", "bad"),
    "dead": ("✗", "bad"),
    "down": ("✗", "bad"),
    "unhealthy": ("✗", "bad"),
    "stopped": ("○", "dim"),
    # alerts
    "active": ("▲", "warn"),
    "resolved": ("✓", "dim"),
    "page": ("▲", "bad"),
    "ticket": ("▲", "warn"),
    "info": ("●", "info"),
    # releases
    "Development": ("○", "dim"),
    "Staging": ("◑", "info"),
    "Production": ("●", "ok"),
    "Archived": ("–", "dim"),
    "Rejected": ("✗", "bad"),
}
_UNKNOWN = ("•", "")

TRACK_TONES = {"stable": "stable", "canary": "canary", "shadow": "info", "baseline": "dim"}


def words(state: str) -> str:
    """A state's name as a person reads it."""
    return state.replace("_", " ")


def sign(state: str, word: str | None = None) -> Line:
    """Glyph and word of a state."""
    glyph, tone = GLYPHS.get(state, _UNKNOWN)
    return line((f"{glyph} {words(state) if word is None else word}", tone))


def tone_of(state: str) -> str:
    """The tone of a state."""
    return GLYPHS.get(state, _UNKNOWN)[1]


def env_span(env: str, protected: bool) -> Span:
    """An environment's name; a protected one looks like it and the legend says so in a word where there is room."""
    return (env, "env.protected" if protected else "env.open")


def env_badge(env: str, protected: bool) -> Line:
    """The badge of an environment: its word, and `protected` in words too."""
    return line(
        (f" {env.upper()}{' · protected' if protected else ''} ", "badge.protected" if protected else "badge.open")
    )
