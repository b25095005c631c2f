"""Each strategy on a real engine: what the gateway has, which replicas live, and no request that fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest
from chaos_workspace import ENV, RELEASES, SERVICE, Workspace
from patience import until

from adapters.routing import PREVIEW_HEADER
from state.words import Conflict

FIRST, SECOND = RELEASES[:2]

pytestmark = pytest.mark.deep


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


@pytest.fixture
def calm(deck: Workspace) -> Iterator[Workspace]:
    """The deck, whose users notice nothing of what a strategy does."""
    before = deck.loads[0].seen().failed
    yield deck
    assert deck.loads[0].seen().failed == before, deck.loads[0].seen()


def tracks(ws: Workspace) -> dict[str, tuple[str, int, int]]:
    """track → (release, weight, replicas) in the first worker's table."""
    (route,) = ws.tables()[0]["routes"]
    return {b["track"]: (b["release_id"], b["weight"], len(b["replicas"])) for b in route["backends"]}


def ask(ws: Workspace, path: str = "/v1/completions", **headers: str) -> str:
    """The release that answers a request."""
    connection = HTTPConnection(ws.url().removeprefix("http://"), timeout=30.0)
    try:
        body = json.dumps({"model": SERVICE, "prompt": "the ", "max_tokens": 1})
        connection.request("POST", path, body, {"content-type": "application/json", **headers})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
        return str(answer.getheader("x-airboss-release"))
    finally:
        connection.close()


def states(ws: Workspace, rollout_id: str) -> list[str]:
    return [state for state, _ in ws.path(rollout_id)]


def test_a_shadow_gets_copies_and_no_user_and_then_waits_for_a_person(calm: Workspace) -> None:
    stable, shadow = live(calm), other(calm)
    rollout_id = begin(calm, shadow, strategy="shadow", steps=["mirror=50"])
    calm.wait_for(rollout_id, "shadowing")
    assert tracks(calm) == {"stable": (stable, 100, 2), "shadow": (shadow, 0, 2)}
    with pytest.raises(Conflict, match="copies of requests and no users"):
        calm.ask("rollout.weight", f"rollout/{rollout_id}", weight=20)
    calm.wait_for(rollout_id, "awaiting_promotion")
    (verdict,) = calm.rows("SELECT kind, sentence FROM verdict WHERE rollout_id = ? AND kind = 'PASS'", rollout_id)
    assert "pairs, median latency" in verdict["sentence"]
    counted = calm.rows("SELECT SUM(requests) AS n FROM evidence WHERE track = 'shadow'")[0]["n"]
    assert not counted, "a copy counts to nobody"
    calm.ask("rollout.abort", f"rollout/{rollout_id}")
    calm.wait_for(rollout_id, "rolled_back")
    until(lambda: tracks(calm) == {"stable": (stable, 100, 2)}, "the shadow is gone from the table")


def test_blue_green_shows_a_preview_then_switches_all_at_once(calm: Workspace) -> None:
    blue, green = live(calm), other(calm)
    asked = calm.ask(
        "deploy", f"service/{SERVICE}", release=green, env=ENV, strategy="blue-green", steps=["pause=1h"], force=True
    )
    assert asked.plan is not None
    (shown,) = [line.after for line in asked.plan.lines if line.object == f"{ENV} preview"]
    assert shown == f"{calm.url()}/{ENV}/{SERVICE}/v1/"
    rollout_id = asked.ref.partition("/")[2]
    calm.wait_for(rollout_id, "step_baking", 0)
    assert tracks(calm) == {"stable": (blue, 100, 2), "canary": (green, 0, 2)}
    path = shown.removeprefix(calm.url()) + "completions"
    assert [ask(calm), ask(calm, path, **{PREVIEW_HEADER: green})] == [blue, green]
    calm.ask("rollout.promote", f"rollout/{rollout_id}")
    calm.wait_for(rollout_id, "step_baking", 1)
    assert tracks(calm)["canary"] == (green, 100, 2)
    calm.wait_for(rollout_id, "completed")
    assert live(calm) == green


def test_rolling_replaces_replica_by_replica_and_the_weight_follows(calm: Workspace) -> None:
    old, new = live(calm), other(calm)
    rollout_id = begin(calm, new, strategy="rolling", force=True)
    calm.wait_for(rollout_id, "step_baking", 0)
    assert {name: weight for name, (_, weight, _) in tracks(calm).items()} == {"stable": 50, "canary": 50}
    calm.wait_for(rollout_id, "completed")
    assert [state for state in states(calm, rollout_id) if state == "step_applying"] == ["step_applying"] * 2
    until(
        lambda: calm.owners() == Counter({f"model/{SERVICE}/{ENV}/{new}/{n}": 1 for n in range(2)}),
        f"{old} has given its replicas up",
    )


def test_requests_with_a_header_meet_the_canary_whatever_its_weight_and_a_way_back_ends_that(calm: Workspace) -> None:
    stable, canary = live(calm), other(calm)
    rollout_id = begin(calm, canary, steps=["header=X-Beta: 1", 30], force=True)
    calm.wait_for(rollout_id, "step_baking", 0)
    assert [ask(calm), ask(calm, **{"x-beta": "1"})] == [stable, canary]
    calm.ask("rollout.promote", f"rollout/{rollout_id}")
    calm.wait_for(rollout_id, "step_baking", 1)
    calm.ask("rollout.abort", f"rollout/{rollout_id}")
    calm.wait_for(rollout_id, "rolled_back")
    assert ask(calm, **{"x-beta": "1"}) == stable


def test_a_rolling_update_whose_engine_is_killed_half_way_goes_on_with_the_replicas_it_has(calm: Workspace) -> None:
    new = other(calm)
    rollout_id = begin(calm, new, strategy="rolling", force=True)
    calm.wait_for(rollout_id, "step_baking", 0)
    calm.kill_engine()
    calm.start()
    calm.wait_for(rollout_id, "completed")
    until(lambda: calm.weights() == [{new: 100}] * 2, "all traffic is on the new release")
    assert all(count == 1 for count in calm.owners().values()), calm.owners()


def test_a_baseline_stands_beside_the_canary_with_its_weight_and_leaves_with_it(calm: Workspace) -> None:
    stable, canary = live(calm), other(calm)
    rollout_id = begin(calm, canary, steps=[20], force=True)
    calm.wait_for(rollout_id, "step_baking", 0)
    assert tracks(calm) == {"stable": (stable, 60, 2), "baseline": (stable, 20, 2), "canary": (canary, 20, 2)}
    calm.wait_for(rollout_id, "completed")
    compared = calm.rows("SELECT sentence FROM verdict WHERE rollout_id = ? AND kind = 'PASS' ORDER BY id", rollout_id)
    assert "stable is the baseline track here" in compared[0]["sentence"]
    until(lambda: tracks(calm) == {"stable": (canary, 100, 2)}, "the baseline has left the table")
    until(lambda: not any("/baseline" in owner for owner in calm.owners()), "the baseline's replicas are gone")


def test_a_swap_has_one_release_at_a_time_and_says_how_long_nobody_is_answered(deck: Workspace) -> None:
    old, new = live(deck), other(deck)
    until(lambda: not any(f"/{new}" in owner for owner in deck.owners()), f"{new} is not warm any more")
    asked = deck.ask("deploy", f"service/{SERVICE}", release=new, env=ENV, strategy="swap", force=True)
    assert asked.plan is not None and asked.plan.sheds.startswith("every request for about")
    rollout_id = asked.ref.partition("/")[2]
    deck.wait_for(rollout_id, "completed")
    assert live(deck) == new and ask(deck) == new
    (gone,) = deck.rows("SELECT MAX(ended_at) AS at FROM spawn WHERE kind = 'model' AND release_id = ?", old)
    (came,) = deck.rows(
        "SELECT MIN(started_at) AS at, COUNT(*) AS n FROM spawn WHERE release_id = ? AND started_at > "
        "(SELECT created_at FROM rollout WHERE id = ?)", new, rollout_id,
    )  # fmt: skip
    assert came["n"] == 2 and gone["at"] <= came["at"], "one was gone before the other was started"
    until(
        lambda: deck.owners() == Counter({f"model/{SERVICE}/{ENV}/{new}/{n}": 1 for n in range(2)}),
        f"{old} has given its memory up",
    )
