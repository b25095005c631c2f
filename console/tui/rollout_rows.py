"""The list of rollouts. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from console.tui.listing import Listing
from console.tui.scene import Frame, Scope
from console.tui.signs import env_span, sign, words
from console.tui.table import Column, Row
from console.tui.text import NOTHING, Line, duration, line
from engine.api.schemas import RolloutView
from state.words import RolloutState

COLUMNS = (
    Column("ROLLOUT", 7, most=14),
    Column("SERVICE", 7, most=20),
    Column("ENV", 4, most=16),
    Column("FROM", 4, most=20, keep=5),
    Column("TO", 8, most=20),
    Column("STATE", 14, most=30),
    Column("STEP", 4, ">"),
    Column("WEIGHT", 6, ">", keep=2),
    Column("VERDICT", 7, most=14, keep=1),
    Column("FOR", 7, ">", keep=3),
    Column("BY", 4, most=16, keep=6),
    Column("WHY", 8, most=80, flex=True, keep=4),
)


def state_sign(rollout: RolloutView) -> Line:
    """The state in words, with the reason of a pause."""
    if rollout.state == RolloutState.PAUSED and rollout.pause_reason:
        return sign("paused", f"paused ({words(rollout.pause_reason)})")
    return sign(rollout.state)


def step_of(rollout: RolloutView) -> str:
    """`2/3`; nothing before the first step."""
    if not rollout.steps:
        return NOTHING
    reached = (
        len(rollout.steps) if rollout.state == RolloutState.COMPLETED else min(rollout.step + 1, len(rollout.steps))
    )
    return f"{reached}/{len(rollout.steps)}"


def shown_weight(rollout: RolloutView) -> int:
    """The new release's configured share: all of it once completed, nothing once rolled back."""
    return {"completed": 100, "rolled_back": 0}.get(rollout.state, rollout.weight)


def why(rollout: RolloutView) -> str:
    """What is most worth reading about a rollout in one line."""
    if rollout.verdict is not None and rollout.state != RolloutState.COMPLETED:
        return rollout.verdict.sentence
    return rollout.message or rollout.reason


def rollout_row(rollout: RolloutView, now: float) -> Row:
    """A rollout as a row; one that is over is quieter."""
    over = RolloutState(rollout.state).is_terminal
    since = (rollout.finished_at or rollout.state_since) if over else rollout.state_since
    return Row(
        rollout.id,
        (
            line((rollout.id, "strong" if not over else "")),
            line(rollout.service),
            line(env_span(rollout.env, rollout.protected)),
            line((rollout.from_release or NOTHING, "dim")),
            line(rollout.to_release),
            state_sign(rollout),
            line(step_of(rollout)),
            line(f"{shown_weight(rollout)} %"),
            sign(rollout.verdict.kind) if rollout.verdict else line((NOTHING, "dim")),
            line((duration(now - since), "dim")),
            line((rollout.created_by, "dim")),
            line((why(rollout), "dim")),
        ),
        tone="dim" if over else "",
    )


def _objects(frame: Frame, _scope: Scope) -> Sequence[RolloutView]:
    return frame.snapshot.rollouts


ROLLOUTS = Listing(
    view="rollouts",
    columns=COLUMNS,
    objects=_objects,
    key=lambda r: r.id,
    row=rollout_row,
    empty="no rollout yet: `:deploy SERVICE RELEASE --env ENV` starts one",
)
