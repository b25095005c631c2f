"""The rollout machine: (rollout, facts) → move, pure. No clock, no I/O.

`next_move` is level-triggered: given where a rollout stands and what the world looks like, it says which state comes next
and which absolute effects are wanted now. Asking again after a crash gives the same answer. `by_hand.apply_verb` is the
same for what people ask. DESIGN §6 and `reference/delivery.md` §C are its table; I-numbers name their invariants. The
parts of a rollout's life have a module each: `beginning`, `stepping` (`replacing` for
rolling and swap), `ending`, `standing`.
"""

from __future__ import annotations

from engine.rollouts.beginning import awaiting_approval, planned, preparing
from engine.rollouts.ending import awaiting_promotion, promoting, verifying
from engine.rollouts.hindrance import hindered
from engine.rollouts.standing import paused, rolling_back, terminal
from engine.rollouts.stepping import shadowing, step_applying, step_baking
from engine.rollouts.values import Facts, Move, RolloutNow
from state.words import RolloutState

_S = RolloutState


def next_move(r: RolloutNow, f: Facts) -> Move:
    """What comes next for `r` in the world `f`."""
    move = _HANDLERS[r.state](r, f)
    if move.state in (_S.ROLLING_BACK, _S.ROLLED_BACK, _S.SUPERSEDED, _S.CANCELLED):
        # A way back outranks whatever else stands in the way.
        return move
    return hindered(r, f) or move


_HANDLERS = {
    _S.PLANNED: planned,
    _S.AWAITING_APPROVAL: awaiting_approval,
    _S.PREPARING: preparing,
    _S.SHADOWING: shadowing,
    _S.STEP_APPLYING: step_applying,
    _S.STEP_BAKING: step_baking,
    _S.AWAITING_PROMOTION: awaiting_promotion,
    _S.PROMOTING: promoting,
    _S.VERIFYING: verifying,
    _S.PAUSED: paused,
    _S.ROLLING_BACK: rolling_back,
    _S.COMPLETED: terminal,
    _S.ROLLED_BACK: terminal,
    _S.SUPERSEDED: terminal,
    _S.CANCELLED: terminal,
    _S.STUCK: terminal,
}
