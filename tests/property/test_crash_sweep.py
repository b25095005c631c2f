"""Killed at every point of its journal, for each n: the invariants hold, and the world ends as if nothing had been."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from engine_room import Room, room
from machine_things import Crash
from sqlmodel import Session, select

from state.models import Rollout
from state.store import Store
from state.words import AirbossError, RolloutState

S = RolloutState
ROUNDS = 120
SAMPLE = 20
"""The suite takes every twentieth point, other ones in each scenario; `pytest -m long tests/property` takes all."""


@dataclass(frozen=True)
class Scene:
    """What a person does: from what stands in the store, the next key to press; None when there is nothing left to do."""

    name: str
    wants: Callable[[list[Rollout]], str | None]


def canary(rows: list[Rollout]) -> str | None:
    """The first release, then a canary of the second to its end: prepared, stepped, promoted, verified."""
    if not rows:
        return "deploy a"
    return "deploy b" if len(rows) == 1 and rows[0].state == S.COMPLETED else None


def rolled_back(rows: list[Rollout]) -> str | None:
    """A canary that is rolled back from its first step, and then another that completes."""
    if len(rows) < 2:
        return canary(rows)
    if rows[1].state == S.STEP_BAKING:
        return "rollback"
    return "deploy c" if len(rows) == 2 and rows[1].state == S.ROLLED_BACK else None


def returned(rows: list[Rollout]) -> str | None:
    """A canary that completes, and the way back from it afterwards, N-1 being warm."""
    if len(rows) < 2:
        return canary(rows)
    return "rollback" if len(rows) == 2 and rows[1].state == S.COMPLETED else None


SCENES = (Scene("canary", canary), Scene("rolled back", rolled_back), Scene("returned", returned))


async def play(there: Room, scene: Scene) -> int:
    """Play the scene to its end, restarting the engine where it dies. Returns how many rounds it took."""
    quiet = 0
    for number in range(ROUNDS):
        there.outside.time.passes(5.0 if quiet else 1.0)
        try:
            await press(there, scene)
            await there.look()
        except Crash:
            there.outside.crash_at = 0
            await until_up(there)
        there.assert_invariants()
        rows = there.store.read_now(all_rows)
        is_over = all(S(row.state).is_terminal for row in rows) and scene.wants(rows) is None
        quiet = quiet + 1 if is_over else 0
        if quiet > 5:  # longer than the warm hold
            return number
    raise AssertionError(f"{scene.name} does not end: {there.what_there_is()}")


async def press(there: Room, scene: Scene) -> None:
    key = scene.wants(there.store.read_now(all_rows))
    if key == "rollback":
        await there.roll_back()
    elif key is not None:
        await there.deploy(key.removeprefix("deploy "))


async def until_up(there: Room) -> None:
    act: Callable[[], Awaitable[None]] = there.restart
    try:
        await act()
    except AirbossError as error:
        raise AssertionError(f"the next engine does not come up: {error}") from error


def all_rows(session: Session) -> list[Rollout]:
    """Every rollout, oldest first."""
    return sorted(session.exec(select(Rollout)), key=lambda row: int(row.id.rpartition("-")[2]))


def run(store: Store, scene: Scene, crash_at: int) -> tuple[dict[str, Any], list[str]]:
    """The scene with a crash at a point (0: none): how the world ends, and the points that were passed."""
    with room(store, crash_at) as there:
        asyncio.run(play(there, scene))
        return there.what_there_is(), there.outside.points


def sweep(store: Store, scene: Scene, first: int, step: int) -> int:
    """Crash at each `step`-th point from `first` on. Returns how many points the scene has."""
    whole, points = run(store, scene, 0)
    assert whole["open"] == [], "I3: every intent has its outcome"
    for crash_at in range(first, len(points) + 1, step):
        ended, passed = run(store, scene, crash_at)
        assert ended == whole, f"{scene.name}, killed at point {crash_at}: {passed[crash_at - 1]}"
    return len(points)


@pytest.mark.deep
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_killed_at_a_sample_of_the_journals_points_everything_ends_as_without_a_crash(
    store: Store, scene: Scene
) -> None:
    assert sweep(store, scene, 1 + SCENES.index(scene), SAMPLE) > 60


def test_killed_between_an_alias_and_the_stage_that_goes_with_it_both_are_right_in_the_end(store: Store) -> None:
    whole, points = run(store, SCENES[2], 0)
    between = [number for number, name in enumerate(points, start=1) if name == "after the alias champion"]
    assert len(between) == 3, "the first release, the second, and the way back"
    for crash_at in between[1:]:
        assert run(store, SCENES[2], crash_at)[0] == whole, crash_at


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_killed_at_every_point_of_the_journal_everything_ends_as_without_a_crash(store: Store, scene: Scene) -> None:
    print(f"{scene.name}: {sweep(store, scene, 1, 1)} points")
