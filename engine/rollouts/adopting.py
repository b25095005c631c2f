"""`rollout adopt`: accept the weights that somebody else has set, and go on from there. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.rollouts.hindrance import nonzero, says
from engine.rollouts.moves import roll_back
from engine.rollouts.values import Move, RolloutNow
from state.words import Conflict, RolloutState, Unreachable

_S = RolloutState


@dataclass(frozen=True, slots=True)
class Adoption:
    """What accepting the world means: a move, or a weight for the present step, or another release that is stable now."""

    says: str
    move: Move | None = None
    weight: int | None = None
    stable: str | None = None


def adopted(r: RolloutNow, weights: Mapping[str, int] | None, who: str) -> Adoption:
    """How `r` goes on when what the gateway has is accepted. Raises Conflict where only the way back is left."""
    if weights is None:
        raise Unreachable(
            "the gateway's workers cannot be asked, or do not agree: there is nothing to adopt yet",
            hint=f"try again, or `airboss rollback rollout/{r.id}`",
        )
    split = nonzero(weights)
    there = says(split)
    if split == {r.from_release: 100}:
        said = f"{who} accepts that {r.from_release} has all traffic; {r.id} ends"
        return Adoption(said, move=roll_back(r, said))
    if split == {r.to_release: 100}:
        said = f"{who} accepts that {r.to_release} has all traffic; it is verified next"
        return Adoption(said, move=Move(_S.PROMOTING, r.step, (), said))
    if len(split) == 1:
        other = next(iter(split))
        said = f"{who} accepts that {other} has all traffic; {r.id} is given up"
        return Adoption(said, move=Move(_S.CANCELLED, r.step, (), said), stable=other)
    if set(split) == {r.from_release, r.to_release} and r.steps[r.step].kind == "weight":
        return Adoption(f"{who} accepts {there}; this step is judged anew", weight=split[r.to_release])
    raise Conflict(
        f"{r.id} cannot go on from {there or 'a gateway that routes nothing'}",
        hint=f"`airboss rollback rollout/{r.id}` returns all traffic to {r.from_release}",
        code="not_adoptable",
    )
