"""kill -9 of model servers and gateway workers under load: who is asked next, who comes back, and what it costs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_workspace import CANARY, ENV, RPS, SERVICE, STABLE, WHOLE_PATH, Workspace, free_port, kill, say
from patience import until

from state.words import Conflict

MakeWorkspace = Callable[..., Workspace]
AIRBOSS = Path(sys.executable).with_name("airboss")
EJECTED_S = 2.0
"""The promise is a second; the double is for a machine that is shared."""


def healthy(ws: Workspace) -> set[str]:
    """Replicas that any gateway worker would still give a request to."""
    return {replica["spawn_id"] for replica in ws.gateway_health() if replica["healthy"]}


def test_a_killed_replica_is_out_within_a_second_and_comes_back_as_a_new_one(workspace: MakeWorkspace) -> None:
    ws = workspace(replicas=2)
    ws.serve()
    both = {
        row["spawn_id"]: row["pid"]
        for row in until(lambda: len(ws.ready(STABLE)) == 2 and ws.ready(STABLE), "both are ready")
    }
    until(lambda: set(both) == healthy(ws), "both are healthy in the gateway")
    users = ws.users()
    (victim, pid), (other, _) = both.items()
    killed_at = time.monotonic()
    kill(pid)
    until(lambda: victim not in healthy(ws), "no worker routes to the dead replica", EJECTED_S)
    say(f"ejected after {time.monotonic() - killed_at:.2f} s")

    def successor() -> set[str]:
        return {row["spawn_id"] for row in ws.ready(STABLE)} - set(both)

    (new,) = until(lambda: len(successor()) == 1 and successor(), "the engine has started another")
    until(lambda: {other, new} == healthy(ws), "both are healthy again")
    before = users.seen()
    assert before.failed == 0, before
    # Now both at once: there is nobody left to ask, and the users are told so; nobody has to do anything.
    for row in ws.ready(STABLE):
        kill(row["pid"])
    until(lambda: len(ws.ready(STABLE)) == 2 and len(healthy(ws)) == 2, "two new ones are healthy")
    again = users.seen()
    until(lambda: users.answered_since(again) > 20, "users are answered again")
    failed = users.seen().failed
    report = users.stop()
    assert report.failed == failed, "no request fails after the service is back"
    assert set(report.by_status) <= {"200", "502", "503"}, report
    ws.assert_in_order()
    ws.assert_serves_only(STABLE, replicas=2)


@pytest.mark.deep
def test_a_canary_that_keeps_dying_is_rolled_back_as_a_crash_loop(workspace: MakeWorkspace) -> None:
    ws = workspace()
    ws.serve()
    users = ws.users(rps=5.0)
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    killed: set[str] = set()

    def is_over() -> bool:
        for row in ws.ready(CANARY):
            if row["spawn_id"] not in killed:
                killed.add(row["spawn_id"])
                kill(row["pid"])
        return ws.standing(rollout_id)[0] == "rolled_back"

    until(is_over, "the rollout is rolled back")
    assert "crash loop: 3 deaths" in ws.message(rollout_id)
    assert ws.path(rollout_id)[-2:] == [("rolling_back", 0), ("rolled_back", 0)]
    lives = ws.rows("SELECT started_at, ended_at FROM spawn WHERE release_id = ? ORDER BY started_at", CANARY)
    assert len(lives) == len(killed) == 3, "restarted twice, and then no more"
    assert lives[2]["started_at"] - lives[1]["ended_at"] >= 0.2, "the second restart waited for its backoff"
    report = users.stop()
    assert report.failed == 0, f"stable answered what the canary could not: {report}"
    ws.assert_in_order()
    ws.assert_serves_only(STABLE)


@pytest.mark.deep
def test_killed_gateway_workers_refuse_nobody_and_come_back_with_the_table(workspace: MakeWorkspace) -> None:
    ws = workspace(port=free_port())
    ws.serve()
    users = ws.users()
    for count in (1, 2):
        old = ws.gateways()
        revision = max(table["revision"] for table in ws.tables())
        before = users.seen()
        for worker in old[:count]:
            kill(worker.pid)
        most_inside = max(before.in_flight, users.seen().in_flight)
        killed = {worker.pid for worker in old[:count]}
        until(
            lambda killed=killed: len(ws.gateways()) == 2 and not killed & {w.pid for w in ws.gateways()},
            "two workers live",
        )  # type: ignore[misc]
        until(lambda: len(ws.tables()) == 2, "both answer")
        assert all(table["revision"] >= revision for table in ws.tables())
        now = users.seen()
        until(lambda now=now: users.answered_since(now) > 20, "users are answered")  # type: ignore[misc]
        broken = users.seen().failed - before.failed
        say(f"{count} worker(s) killed: {broken} request(s) inside broke, {most_inside} were in flight")
        # Requests sent in the instant of a worker's end were in its socket: an eighth of a second of them, beside those seen.
        assert broken <= most_inside + round(RPS / 8), users.seen()
    report = users.stop()
    assert set(report.by_status) <= {"200", "connection"}, report
    assert not any("Cannot connect" in error for error in report.errors), report.errors

    # And the whole house at once, in the middle of a canary: what still stands are the model servers.
    users = ws.users()
    rollout_id = ws.deploy()
    ws.wait_for(rollout_id, "step_baking", 0)
    users.stop()
    servers = {p.pid for p in ws.servers()}
    ws.kill_engine()
    for worker in ws.gateways():
        kill(worker.pid)
    until(lambda: not ws.gateways(), "the gateway is gone")
    subprocess.run([AIRBOSS, "--workspace", ws.root, "up", "-d"], check=True, timeout=120, capture_output=True)
    until(ws.is_serving, "the port is open again")
    assert {p.pid for p in ws.servers()} == servers
    users = ws.users()
    ws.wait_for(rollout_id, "completed")
    assert ws.path(rollout_id) == list(WHOLE_PATH)
    report = users.stop()
    assert report.failed == 0, report
    ws.assert_in_order()
    ws.assert_serves_only(CANARY)


@pytest.mark.deep
def test_a_replica_is_restarted_under_users_and_none_of_them_notices(workspace: MakeWorkspace) -> None:
    ws = workspace(replicas=2)
    ws.serve()
    both = until(lambda: len(ws.ready(STABLE)) == 2 and {row["spawn_id"] for row in ws.ready(STABLE)}, "both are ready")
    until(lambda: both == healthy(ws), "both are healthy in the gateway")
    users = ws.users()
    sick, other = sorted(both)
    said = ws.ask("service.restart", f"service/{SERVICE}", env=ENV, replica=sick, reason="it answers nonsense")
    assert sick in said.message

    def successor() -> set[str]:
        return {row["spawn_id"] for row in ws.ready(STABLE)} - both

    (new,) = until(lambda: len(successor()) == 1 and successor(), "another is in its place")
    until(lambda: {other, new} == healthy(ws), "both are healthy again")
    before = users.seen()
    until(lambda: users.answered_since(before) > 20, "users go on")
    report = users.stop()
    assert report.failed == 0, report
    (row,) = ws.rows("SELECT * FROM spawn WHERE spawn_id = ?", sick)
    assert (row["desired"], row["state"]) == ("stop", "ended"), "deliberate: it counts as no death"
    (audited,) = ws.rows("SELECT * FROM audit WHERE action = 'service.restart'")
    assert audited["reason"] == "it answers nonsense" and sick in audited["detail"]
    with pytest.raises(Conflict, match=f"no replica of {SERVICE} in {ENV} is called"):
        ws.ask("service.restart", f"service/{SERVICE}", env=ENV, replica=sick)
    ws.assert_in_order()
    ws.assert_serves_only(STABLE, replicas=2)
