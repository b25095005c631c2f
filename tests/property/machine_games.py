"""The strategies and policies that simulated lives are played by, drawn by chance."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from machine_things import Game

from engine.rollouts.strategies import frozen_steps, room_of
from engine.rollouts.values import StepSpec
from state.policy_config import Policy, RollingConfig
from state.words import Strategy

_CANARIES = (
    (StepSpec("weight", 25), StepSpec("weight", 50), StepSpec("weight", 100)),
    (StepSpec("weight", 5), StepSpec("pause", 30), StepSpec("analysis", 1), StepSpec("weight", 100)),
    (StepSpec("weight", 10), StepSpec("approval", 1), StepSpec("weight", 100)),
    (StepSpec("weight", 100),),
    (StepSpec("mirror", 5), StepSpec("weight", 5), StepSpec("weight", 100)),
    (StepSpec("header", 1, "x-group=b"), StepSpec("weight", 50), StepSpec("weight", 100)),
    (StepSpec("cookie", 1, "team=eng"), StepSpec("weight", 100)),
)
_GREENS = (
    (StepSpec("weight", 100),),
    (StepSpec("pause", 30), StepSpec("weight", 100)),
    (StepSpec("mirror", 5), StepSpec("analysis", 1), StepSpec("weight", 100)),
    (StepSpec("approval", 1), StepSpec("weight", 100)),
)
_SHADOWS = ((StepSpec("mirror", 10),), (StepSpec("mirror", 10), StepSpec("pause", 30)))
_OFTEN = (
    *(Strategy.CANARY,) * 4, Strategy.BLUE_GREEN, *(Strategy.ROLLING,) * 2, Strategy.SWAP, Strategy.SHADOW,
)  # fmt: skip


def game_of(chance: random.Random) -> Game:
    """A strategy and a policy; every third life changes them from one rollout to the next."""
    first = _game(chance, chance.choice((1, 1, 2, 3)), has_stable=chance.random() < 0.9)
    if chance.random() < 2 / 3:
        return first
    return replace(first, then=tuple(_game(chance, first.replicas) for _ in range(chance.randint(1, 2))))


def _game(chance: random.Random, replicas: int, *, has_stable: bool = True) -> Game:
    strategy = chance.choice(_OFTEN)
    surge, unavailable, steps = 1, 0, chance.choice(_CANARIES)
    if strategy is Strategy.BLUE_GREEN:
        steps = chance.choice(_GREENS)
    elif strategy is Strategy.SHADOW:
        steps = chance.choice(_SHADOWS)
    elif strategy in (Strategy.ROLLING, Strategy.SWAP):
        asked = chance.choice(((1, 0), (0, 1), (1, 1), (2, 0)))
        surge, unavailable, steps = _batches(strategy, replicas, *asked, chance.choice((None, None, 20.0)))
    return Game(
        steps, replicas=replicas, approvals=chance.choice((0, 0, 0, 1)), auto_promote=chance.random() < 0.8,
        has_stable=has_stable, strategy=strategy, has_baseline=strategy is Strategy.CANARY and chance.random() < 0.2,
        surge=surge, unavailable=unavailable,
    )  # fmt: skip


@cache
def _batches(
    strategy: Strategy, replicas: int, surge: int, unavailable: int, settle_s: float | None
) -> tuple[int, int, tuple[StepSpec, ...]]:
    policy = Policy(strategy=strategy, rolling=RollingConfig(surge=surge, unavailable=unavailable, settle=settle_s))
    room = room_of(strategy, policy, replicas)
    return (*room, tuple(StepSpec(**step) for step in frozen_steps(strategy, policy, replicas)))
