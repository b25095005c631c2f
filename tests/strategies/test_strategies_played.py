"""Each strategy on a real engine: what the gateway has, which replicas live, and no request that fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from chaos_workspace import ENV, RELEASES, SERVICE, Workspace, until

from engine.rollouts.values import PREVIEW_HEADER
from state.words import Conflict

FIRST, SECOND = RELEASES[:2]


def begin(ws: Workspace, release: str, **args: Any) -> str:
    """Deploy the release as told; the rollout's id."""
    return ws.ask("deploy", f"service/{SERVICE}", release=release, env=ENV, **args).ref.partition("/")[2]


def live(ws: Workspace) -> str:
    """The release that users have."""
    (row,) = ws.rows("SELECT release_id FROM track WHERE track = 'stable'")
    return str(row["release_id"])


def other(ws: Workspace) -> str:
    """The release that users do not have."""
    return SECOND if live(ws) == FIRST else FIRST


@pytest.fixture(autouse=True)
def no_request_fails(deck: Workspace) -> Iterator[None]:
    """Whatever a strategy does, its users do not notice."""
    before = deck.loads[0].seen().failed
    yield
    assert deck.loads[0].seen().failed == before, deck.loads[0].seen()


def tracks(ws: Workspace) -> dict[str, tuple[str, int, int]]:
    """track → (release, weight, replicas) in the first worker's table."""
    (route,) = ws.tables()[0]["routes"]
    return {b["track"]: (b["release_id"], b["weight"], len(b["replicas"])) for b in route["backends"]}


def ask(ws: Workspace, **headers: str) -> str:
    """The track that answers a request."""
    connection = HTTPConnection(ws.url().removeprefix("http://"), timeout=30.0)
    try:
        body = json.dumps({"model": SERVICE, "prompt": "the ", "max_tokens": 1})
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        return str(answer.getheader("x-airboss-release"))
    finally:
        connection.close()


def states(ws: Workspace, rollout_id: str) -> list[str]:
    return [state for state, _ in ws.path(rollout_id)]


def test_a_shadow_gets_copies_and_no_user_and_then_waits_for_a_person(deck: Workspace) -> None:
    stable, shadow = live(deck), other(deck)
    rollout_id = begin(deck, shadow, strategy="shadow", steps=["mirror=50"])
    deck.wait_for(rollout_id, "shadowing")
    assert tracks(deck) == {"stable": (stable, 100, 2), "shadow": (shadow, 0, 2)}
    with pytest.raises(Conflict, match="copies of requests and no users"):
        deck.ask("rollout.weight", f"rollout/{rollout_id}", weight=20)
    deck.wait_for(rollout_id, "awaiting_promotion")
    (verdict,) = deck.rows("SELECT kind, sentence FROM verdict WHERE rollout_id = ? AND kind = 'PASS'", rollout_id)
    assert "pairs, median latency" in verdict["sentence"]
    counted = deck.rows("SELECT SUM(requests) AS n FROM evidence WHERE track = 'shadow'")[0]["n"]
    assert not counted, "a copy counts to nobody"
    deck.ask("rollout.abort", f"rollout/{rollout_id}")
    deck.wait_for(rollout_id, "rolled_back")
    until(lambda: tracks(deck) == {"stable": (stable, 100, 2)}, "the shadow is gone from the table")


def test_blue_green_shows_a_preview_then_switches_all_at_once(deck: Workspace) -> None:
    blue, green = live(deck), other(deck)
    rollout_id = begin(deck, green, strategy="blue-green", steps=["approval=1"], force=True)
    deck.wait_for(rollout_id, "step_baking", 0)
    assert tracks(deck) == {"stable": (blue, 100, 2), "canary": (green, 0, 2)}
    assert [ask(deck), ask(deck, **{PREVIEW_HEADER: green})] == [blue, green]
    deck.change(
        "INSERT INTO approval (rollout_id, by, at, decision, reason) VALUES (?, 'user:ann', 0, 'approve', '')",
        rollout_id,
    )
    deck.wait_for(rollout_id, "step_baking", 1)
    assert tracks(deck)["canary"] == (green, 100, 2)
    deck.wait_for(rollout_id, "completed")
    assert live(deck) == green


def test_rolling_replaces_replica_by_replica_and_the_weight_follows(deck: Workspace) -> None:
    old, new = live(deck), other(deck)
    rollout_id = begin(deck, new, strategy="rolling", force=True)
    deck.wait_for(rollout_id, "step_baking", 0)
    assert {name: weight for name, (_, weight, _) in tracks(deck).items()} == {"stable": 50, "canary": 50}
    deck.wait_for(rollout_id, "completed")
    assert [state for state in states(deck, rollout_id) if state == "step_applying"] == ["step_applying"] * 2
    until(
        lambda: deck.owners() == Counter({f"model/{SERVICE}/{ENV}/{new}/{n}": 1 for n in range(2)}),
        f"{old} has given its replicas up",
    )


def test_requests_with_a_header_meet_the_canary_whatever_its_weight_and_a_way_back_ends_that(deck: Workspace) -> None:
    stable, canary = live(deck), other(deck)
    rollout_id = begin(deck, canary, steps=["header=X-Beta: 1", 30], force=True)
    deck.wait_for(rollout_id, "step_baking", 0)
    assert [ask(deck), ask(deck, **{"x-beta": "1"})] == [stable, canary]
    deck.ask("rollout.promote", f"rollout/{rollout_id}")
    deck.wait_for(rollout_id, "step_baking", 1)
    deck.ask("rollout.abort", f"rollout/{rollout_id}")
    deck.wait_for(rollout_id, "rolled_back")
    assert ask(deck, **{"x-beta": "1"}) == stable


def test_a_rolling_update_whose_engine_is_killed_half_way_goes_on_with_the_replicas_it_has(deck: Workspace) -> None:
    new = other(deck)
    rollout_id = begin(deck, new, strategy="rolling", force=True)
    deck.wait_for(rollout_id, "step_baking", 0)
    deck.kill_engine()
    deck.start()
    deck.wait_for(rollout_id, "completed")
    until(lambda: deck.weights() == [{new: 100}] * 2, "all traffic is on the new release")
    assert all(count == 1 for count in deck.owners().values()), deck.owners()
