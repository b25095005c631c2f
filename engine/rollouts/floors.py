"""Which releases must keep their pods whatever an autoscaler of the cluster thinks (I13): both of a rollout, and what is kept warm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from sqlmodel import Session, col, select

from engine.rollouts import records
from engine.rollouts.back.warm import REPLACING, Place
from state.models import Rollout
from state.words import RolloutState

_NOT_BEGUN = (RolloutState.PLANNED, RolloutState.AWAITING_APPROVAL)


@runtime_checkable
class HoldsFloors(Protocol):
    """A runtime beside which others' autoscalers work."""

    def floor_moves(self, env: str) -> int:
        """How often pods were asked for there so far."""

    async def hold_floors(self, env: str, wanted: Mapping[tuple[str, str], int], moves: int) -> None:
        """(service, release) → replicas that no autoscaler may go below; all other floors are given back.

        `moves`: `floor_moves` as it was before `wanted` was read; what was asked for since is not given back.
        """


def held_floors(session: Session, env: str, warm: Mapping[Place, int]) -> dict[tuple[str, str], int]:
    """(service, release) → replicas, of an environment. `warm`: what is kept warm, and how much of it."""
    found = {(service, release): count for (service, e, release), count in warm.items() if e == env}
    active = select(Rollout).where(Rollout.env == env, col(Rollout.state).in_(records.ACTIVE))
    for row in session.exec(active.where(col(Rollout.state).not_in(_NOT_BEGUN))):
        count = int(row.policy["replicas"])
        if row.strategy not in REPLACING:
            # A replacing rollout gives the place of the one to the other, by its own count.
            found[row.service, row.to_release] = count
            if row.from_release is not None:
                found[row.service, row.from_release] = count
    return found
