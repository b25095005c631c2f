"""What `state diff` lists, and that each line says what to do."""

from __future__ import annotations

import pytest

from engine.restored.differences import Difference, Found, PausedRollout, Recorded, differences

CHAT = ("chat", "production")
SAME = Recorded({CHAT: {"r1": 100}}, frozenset({"r1", "r2"}), champions={"m": "1"})
THERE = Found({CHAT: {"r1": 100}}, {("chat", "production", "r1"): 1}, {"m": "1"})


def kinds(found: tuple[Difference, ...]) -> list[tuple[str, str]]:
    return [(one.kind, one.ref) for one in found]


def test_a_record_that_agrees_with_the_world_differs_in_nothing() -> None:
    assert differences(SAME, THERE) == ()


def test_traffic_and_processes_that_the_backup_does_not_know() -> None:
    newer = Found({CHAT: {"r2": 100}}, {("chat", "production", "r2"): 2}, {"m": "2"})
    found = differences(SAME, newer)
    assert kinds(found) == [
        ("weights", "service/chat@production"),
        ("replicas", "service/chat@production"),
        ("replicas", "service/chat@production"),
        ("alias", "model/m"),
    ]
    assert (found[0].record, found[0].world) == ("r1 100 %", "r2 100 %")
    assert "state adopt chat --env production" in found[0].todo and "state enforce chat" in found[0].todo


def test_a_release_in_no_record_cannot_be_adopted_and_the_line_says_so() -> None:
    (weights, *_) = differences(SAME, Found({CHAT: {"r9": 100}}, {}, {}))
    assert "r9 is in no record" in weights.todo and "state adopt" not in weights.todo


@pytest.mark.parametrize("served", [{}, {CHAT: {}}])
def test_a_service_that_is_not_served_any_more(served: dict[tuple[str, str], dict[str, int]]) -> None:
    (weights,) = differences(SAME, Found(served, THERE.replicas, {}))
    assert weights.world == "nothing"


def test_a_gateway_that_does_not_answer_is_no_agreement() -> None:
    assert [one.world for one in differences(SAME, Found(None, THERE.replicas, {}))] == ["no worker answers"]


def test_only_rollouts_that_a_restore_paused_are_its_business() -> None:
    paused = tuple(PausedRollout(f"ro-{n}", *CHAT, why, "step_baking") for n, why in enumerate(("restored", "manual")))
    (rollout,) = differences(Recorded(SAME.traffic, SAME.releases, paused=paused), THERE)
    assert (rollout.ref, rollout.record) == ("rollout/ro-0", "step_baking") and "rollout resume ro-0" in rollout.todo


def test_a_bundle_that_is_gone() -> None:
    (bundle,) = differences(Recorded(SAME.traffic, SAME.releases, {"r1": "/x is not there"}), THERE)
    assert (bundle.kind, bundle.world) == ("bundle", "/x is not there")
