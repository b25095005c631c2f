"""kill -9 of the engine during a rollout: it goes on where it was, does nothing twice, and no user notices."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from chaos_workspace import CANARY, RELEASES, STABLE, WHOLE_PATH, Workspace, say
from patience import until

from state.words import AirbossError

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
CRASHING = Path(__file__).with_name("crashing_engine.py")


def assert_untouched(ws: Workspace, gateways: set[int], stable: set[int]) -> None:
    """The gateway and the stable release's servers are the processes they were."""
    assert {p.pid for p in ws.gateways()} == gateways
    assert stable <= {p.pid for p in ws.servers()}


def assert_nothing_twice(ws: Workspace, rollout_id: str) -> None:
    """Each state was entered once, in order; each weight was passed by its own verdict, used once."""
    assert ws.path(rollout_id) == list(WHOLE_PATH)
    steps = ws.rows("SELECT idx, weight, state FROM rollout_step WHERE rollout_id = ? ORDER BY idx", rollout_id)
    assert [(row["idx"], row["weight"], row["state"]) for row in steps] == [
        (0, 25, "passed"), (1, 50, "passed"), (2, 100, "passed"), (3, 100, "passed")
    ]  # fmt: skip
    used = ws.rows(
        "SELECT step, count(*) AS n FROM verdict WHERE rollout_id = ? AND consumed AND kind = 'PASS' GROUP BY step",
        rollout_id,
    )
    assert {row["step"]: row["n"] for row in used} == {0: 1, 1: 1, 2: 1, 3: 1}


def test_a_rollout_goes_on_after_each_of_six_kills_and_no_user_notices(workspace: MakeWorkspace) -> None:
    seed = random.randrange(10_000)
    chance = random.Random(seed)
    say(f"seed {seed}")
    ws = workspace()
    ws.serve()
    users = ws.users()
    gateways, stable = {p.pid for p in ws.gateways()}, {p.pid for p in ws.servers()}
    rollout_id = ws.deploy()
    for state, step, most_s in (
        ("preparing", 0, 1.5), ("step_applying", 0, 0.0), ("step_baking", 0, 1.0), ("step_applying", 1, 0.3),
        ("promoting", 2, 0.2), ("verifying", 2, 0.5),
    ):  # fmt: skip
        ws.wait_for(rollout_id, state, step)
        time.sleep(chance.uniform(0.0, most_s))
        ws.kill_engine()
        assert_untouched(ws, gateways, stable)
        before = users.seen()
        until(lambda before=before: users.answered_since(before) > 5, "users are answered while no engine is there")  # type: ignore[misc]
        ws.start()
    ws.wait_for(rollout_id, "completed")
    assert {p.pid for p in ws.gateways()} == gateways
    report = users.stop()
    assert report.failed == 0 and report.answered > 100, report
    assert_nothing_twice(ws, rollout_id)
    ws.assert_in_order()
    ws.assert_serves_only(CANARY)
    served = ws.rows("SELECT spawn_id FROM spawn WHERE release_id = ? AND ready_at IS NOT NULL", CANARY)
    assert len(served) == 1, "the canary's server was ready once and never replaced"


def test_killed_while_rolling_back_it_only_continues_back(workspace: MakeWorkspace) -> None:
    ws = workspace()
    points = ws.root / "points"
    env = {"CHAOS_POINTS": str(points), "CHAOS_CRASH_AT": "after commit&rollout rolling_back"}
    ws.start(script=CRASHING, **env)
    until(ws.is_serving, "users are answered")
    users = ws.users()
    gateways, stable = {p.pid for p in ws.gateways()}, {p.pid for p in ws.servers()}
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    until(lambda: "canary" in users.seen().by_track, "users meet the canary")
    with suppress(AirbossError):
        ws.ask("rollback", "service/chat", env="production", reason="it looks wrong")
    ws.engines[-1].wait(30)
    assert ws.standing(rollout_id) == ("rolling_back", 0)
    assert ws.weights() == [{STABLE: 75, CANARY: 25}] * 2, "it died before its first effect"
    assert_untouched(ws, gateways, stable)
    # Killed again, before the gateway's second worker has the table.
    ws.start(script=CRASHING, is_up=False, CHAOS_POINTS=str(points), CHAOS_CRASH_AT="after commit&intent route done")
    until(
        lambda: ws.engines[-1].poll() is not None or ws.standing(rollout_id)[0] == "rolled_back",
        "it dies again or is done",
    )
    ws.kill_engine()
    ws.start()
    ws.wait_for(rollout_id, "rolled_back")
    assert ws.path(rollout_id) == [*WHOLE_PATH[:4], ("rolling_back", 0), ("rolled_back", 0)]
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)
    assert_untouched(ws, gateways, stable)
    report = users.stop()
    assert report.failed == 0, report
    (release,) = ws.rows("SELECT lifecycle, rejected_reason FROM release WHERE id = ?", CANARY)
    assert release["lifecycle"] == "Rejected" and "it looks wrong" in release["rejected_reason"]


def test_killed_around_the_start_of_a_server_there_is_exactly_one_in_the_end(workspace: MakeWorkspace) -> None:
    ws = workspace()
    crashes = ("after commit&rollout planned", "after the start of a model")
    ws.start(script=CRASHING, CHAOS_POINTS=str(ws.root / "points"), CHAOS_CRASH_AT=crashes[0])
    until(ws.is_serving, "users are answered")
    for n, release in enumerate(RELEASES[1:3]):
        with suppress(AirbossError):
            ws.deploy(release)
        ws.engines[-1].wait(30)
        (row,) = ws.rows("SELECT id FROM rollout WHERE to_release = ?", release)
        assert ws.path(row["id"])[0] == ("planned", 0), "what was committed is not lost"
        ws.start()
        ws.wait_for(row["id"], "step_baking", 0)
        assert ws.owners() == {f"model/chat/production/{r}/0": 1 for r in (STABLE, release)}
        (ready,) = ws.ready(release)
        # Killed once more, now that it is ready: the next engine finds it by its spawn id and keeps it.
        ws.kill_engine()
        ws.start(script=CRASHING, CHAOS_POINTS=str(ws.root / "points"), CHAOS_CRASH_AT=crashes[n + 1] if n == 0 else "")
        assert [r["spawn_id"] for r in ws.ready(release)] == [ready["spawn_id"]], (
            "a ready server is adopted, not replaced"
        )
        ws.ask("rollback", "service/chat", env="production")
        ws.wait_for(row["id"], "rolled_back")
        ws.assert_in_order()
        ws.assert_serves_only(STABLE)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_instants_a_rollout_still_completes(workspace: MakeWorkspace, seed: int) -> None:
    chance = random.Random(seed)
    ws = workspace()
    ws.serve()
    gateways = {p.pid for p in ws.gateways()}
    users = ws.users()
    rollout_id = ws.deploy()
    kills = 0
    while ws.standing(rollout_id)[0] != "completed" and kills < 12:
        time.sleep(chance.uniform(0.2, 5.0))
        ws.kill_engine()
        kills += 1
        # Some lives end before they are up.
        ws.start(is_up=chance.random() < 0.7)
    if ws.health_pid() is None:
        until(lambda: ws.health_pid() is not None, "the last engine is up")
    ws.wait_for(rollout_id, "completed", timeout_s=240.0)
    report = users.stop()
    assert report.failed == 0, (seed, report)
    assert_nothing_twice(ws, rollout_id)
    ws.assert_in_order()
    ws.assert_serves_only(CANARY)
    assert {p.pid for p in ws.gateways()} == gateways, ws.log_tail(120)
