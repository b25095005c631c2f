"""kill -9 of the real engine at each point of its journal, by number (CHAOS_CRASH_AT=n), with users coming all the while.

`pytest -m long tests/chaos/test_chaos_sweep.py -n 2` takes every point of a promotion and of a rollback; the suite kills one
rollout again and again. `test_chaos_every_point.py` kills one rollout at each of its points, one life after the other: far
cheaper, and harsher. The same for every point of the real store and controller, in one process and in virtual time, is
`pytest -m long tests/property/test_crash_sweep.py`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import suppress

import pytest
from chaos_workspace import CANARY, STABLE, WHOLE_PATH, Workspace, say
from nursery import CRASHING, PATIENT, RPS, SLOW_S, Nursery
from patience import until

from state.words import AirbossError

MakeWorkspace = Callable[..., Workspace]
SHARDS = 5
"""A whole sweep takes long; each shard takes every fifth point."""
KILLS = 4


@pytest.mark.deep
def test_killed_again_and_again_at_later_points_a_rollout_ends_as_if_nothing_had_been(
    workspace: MakeWorkspace,
) -> None:
    ws = workspace()
    ws.start(script=CRASHING, CHAOS_POINTS=str(ws.root / "points-0"), CHAOS_CRASH_AT="7")
    until(ws.is_serving, "users are answered")
    users, gateways = ws.users(), {p.pid for p in ws.gateways()}
    with suppress(AirbossError):
        ws.deploy()
    for kill in range(1, KILLS + 1):
        ws.engines[-1].wait(120)
        say((ws.root / f"points-{kill - 1}").read_text().splitlines()[-1])
        is_last = kill == KILLS
        env = {"CHAOS_POINTS": str(ws.root / f"points-{kill}"), "CHAOS_COUNTS": "at once"}
        # Coming up passes points too: each life is given more of them than that.
        ws.start(script=CRASHING, is_up=is_last, CHAOS_CRASH_AT="" if is_last else str(12 + 5 * kill), **env)
    (row,) = ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)
    ws.wait_for(row["id"], "completed")
    assert ws.path(row["id"]) == list(WHOLE_PATH)
    report = users.stop()
    assert report.failed == 0, report
    ws.assert_in_order()
    ws.assert_serves_only(CANARY)
    assert {p.pid for p in ws.gateways()} == gateways


@pytest.mark.deep
def test_an_engine_that_was_frozen_goes_on_and_no_user_notices(workspace: MakeWorkspace) -> None:
    """Case 23: SIGSTOP stands for a host that slept, with the difference that users come all the while."""
    ws = workspace()
    ws.serve()
    users, gateways = ws.users(), {p.pid for p in ws.gateways()}
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    engine = ws.engines[-1]
    engine.send_signal(signal.SIGSTOP)
    standing, before = ws.standing(rollout_id), users.seen()
    until(lambda: users.answered_since(before) > 200, "users are answered while the engine stands still")
    assert ws.standing(rollout_id) == standing
    engine.send_signal(signal.SIGCONT)
    ws.wait_for(rollout_id, "completed")
    assert ws.path(rollout_id) == list(WHOLE_PATH)
    report = users.stop()
    assert report.failed == 0, report
    ws.assert_in_order()
    ws.assert_serves_only(CANARY)
    assert {p.pid for p in ws.gateways()} == gateways


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1, SHARDS + 1))
def test_killed_at_any_point_of_the_journal_a_rollout_ends_as_if_nothing_had_been(
    workspace: MakeWorkspace, nursery: Nursery, first: int
) -> None:
    """One rollout for each journal point, there and back between two releases, until a number is past the last point."""
    ws = workspace(config=PATIENT)
    nursery.serve(ws)
    gateways = {p.pid for p in ws.gateways()}
    users = ws.users(RPS)
    live, other = STABLE, CANARY
    ws.kill_engine()
    number, named = first, []
    while True:
        is_past, rollout_id = crash_at(ws, nursery, other, number, named)
        ws.wait_for(rollout_id, "completed", timeout_s=SLOW_S)
        assert ws.path(rollout_id) == list(WHOLE_PATH), named[-1:]
        ws.assert_in_order()
        ws.assert_serves_only(other)
        assert {p.pid for p in ws.gateways()} == gateways, named[-1:]
        assert users.seen().failed == 0, (named[-1:], users.seen())
        ws.kill_engine()
        live, other = other, live
        if is_past:
            break
        number += SHARDS
    report = users.stop()
    say(f"{len(named)} points, {report.answered} answered, {report.failed} failed")
    assert report.failed == 0 and len(named) > 30 // SHARDS, (report, named)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("first", range(1, SHARDS + 1))
def test_killed_at_any_point_of_a_rollback_it_ends_as_if_nothing_had_been(
    workspace: MakeWorkspace, nursery: Nursery, first: int
) -> None:
    """One canary for each journal point of its way back; points are counted from the commit that begins it."""
    ws = workspace(config=PATIENT)
    nursery.serve(ws)
    gateways = {p.pid for p in ws.gateways()}
    users = ws.users(RPS)
    number, named = first, []
    while True:
        ws.kill_engine()
        nursery.start(ws)
        rollout_id = ws.deploy(again=bool(named))
        ws.wait_for(rollout_id, "step_baking", 0, SLOW_S)
        ws.kill_engine()
        points = ws.root / f"points-{number}"
        nursery.start(ws, CHAOS_POINTS=str(points), CHAOS_CRASH_AT=str(number), CHAOS_BEGINS="rollout rolling_back")
        engine = ws.engines[-1]
        with suppress(AirbossError):
            ws.ask("rollback", "service/chat", env="production", reason="it looks wrong")
        until(
            lambda: engine.poll() is not None or ws.standing(rollout_id)[0] == "rolled_back",
            "it dies or is back",
            SLOW_S,
        )
        if engine.poll() is None:
            # What it does after it is back has points of its own.
            ws.assert_serves_only(STABLE)
        is_past = engine.poll() is None
        if not is_past:
            named.append(points.read_text().splitlines()[-1])
            say(named[-1])
            nursery.start(ws)
            if ws.standing(rollout_id)[0] not in ("rolling_back", "rolled_back"):
                ws.ask("rollback", "service/chat", env="production", reason="it looks wrong")
        ws.wait_for(rollout_id, "rolled_back", timeout_s=SLOW_S)
        # It may have passed its first step before it was asked back; then only back.
        assert [state for state, _ in ws.path(rollout_id)][-2:] == ["rolling_back", "rolled_back"], named[-1:]
        ws.assert_in_order()
        ws.assert_serves_only(STABLE)
        assert {p.pid for p in ws.gateways()} == gateways, named[-1:]
        assert users.seen().failed == 0, (named[-1:], users.seen())
        if is_past:
            break
        number += SHARDS
    report = users.stop()
    say(f"{len(named)} points, {report.answered} answered, {report.failed} failed")
    assert report.failed == 0 and named, (report, named)


def crash_at(ws: Workspace, nursery: Nursery, release: str, number: int, named: list[str]) -> tuple[bool, str]:
    """Deploy `release` on an engine that dies at point `number`, and start the next. Is the number past the last point?"""
    points = ws.root / f"points-{number}"
    nursery.start(ws, CHAOS_POINTS=str(points), CHAOS_CRASH_AT=str(number))
    unfinished = "SELECT id FROM rollout WHERE to_release = ? AND state != 'completed' ORDER BY created_at DESC"
    with suppress(AirbossError):
        ws.deploy(release)
    rows = ws.rows(unfinished, release)
    engine = ws.engines[-1]
    if rows:
        rollout_id = rows[0]["id"]
        until(
            lambda: engine.poll() is not None or ws.path(rollout_id)[-1][0] == "completed", "it dies or is done", SLOW_S
        )
    until(lambda: engine.poll() is not None or len(ws.owners()) == 1, "the old release's server is gone", SLOW_S)
    is_past = engine.poll() is None
    if not is_past:
        named.append(points.read_text().splitlines()[-1])
        say(named[-1])
        nursery.start(ws)
        if not rows and not ws.rows(unfinished, release):
            ws.deploy(release)  # it died before the plan was committed: nobody was told that it was
    return is_past, str(ws.rows("SELECT id FROM rollout ORDER BY created_at DESC LIMIT 1")[0]["id"])
