"""kill -9 of the real engine at every point of its journal, one life after the other of the same rollout, users coming all the while.

The engine dies at each point that no life has died at yet: before and after every commit, process and table of a canary's
whole way, of what follows its end, and of a way back. What must hold in between is asserted at each death, and at the end the
world is the one that an undisturbed rollout leaves. `test_chaos_sweep.py` kills once a rollout, at one numbered point.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from chaos_workspace import CANARY, RELEASES, STABLE, WHOLE_PATH, Users, Workspace, say
from nursery import PATIENT, RPS, SLOW_S, Nursery
from patience import until

from state.words import TimedOut, Unreachable

MakeWorkspace = Callable[..., Workspace]
QUIET_S = 5.0
"""An engine that lives so long after all is done has passed its last point."""


class Lives:
    """Engines one after the other, each dying at the first point where none has died."""

    def __init__(self, ws: Workspace, nursery: Nursery) -> None:
        self.ws, self.nursery, self.killed = ws, nursery, ws.root / "killed"
        self.gateways = {p.pid for p in ws.gateways()}
        self.users: Users = ws.users(RPS)

    def named(self) -> list[str]:
        """The points where one has died."""
        return self.killed.read_text().splitlines() if self.killed.exists() else []

    def run(self, do: Callable[[], None], is_over: Callable[[], bool], **first: str) -> None:
        """Lives until one passes its last point; `do` is what a person does in each of them, as long as it is not done."""
        self.ws.kill_engine()
        env = {"CHAOS_KILLED": str(self.killed), **(first or {"CHAOS_COUNTS": "at once"})}
        while True:
            before, engine = len(self.named()), self.nursery.start(self.ws, **env)
            with suppress(Unreachable, TimedOut):  # it dies while it is asked
                do()
            self._until(lambda: engine.poll() is not None or is_over())
            quiet = time.monotonic() + QUIET_S
            until(lambda: engine.poll() is not None or time.monotonic() > quiet, "it dies or is quiet")
            if engine.poll() is None:
                return
            if len(self.named()) > before:
                say(f"{len(self.named())} {self.named()[-1]}")
                env = {"CHAOS_KILLED": str(self.killed), "CHAOS_COUNTS": "at once"}
            else:
                raise AssertionError(f"the engine left by itself:\n{self.ws.log_tail()}")
            self.look()

    def look(self) -> None:
        """What holds at any moment, whoever has died where."""
        last = self.named()[-1:]
        assert {p.pid for p in self.ws.gateways()} == self.gateways, last
        # A child that was started and is not meant any more goes as soon as it comes to its lock.
        until(
            lambda: all(count == 1 for count in self.ws.owners().values()), f"one process a place, after {last}", SLOW_S
        )
        chain = self.ws.chain()
        assert chain.is_whole, (last, chain.why)
        assert self.users.seen().failed == 0, (last, self.users.seen())

    def _until(self, claim: Callable[[], bool]) -> None:
        try:
            until(claim, "it dies or is over", SLOW_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; after {self.named()[-3:]}\n{self.ws.log_tail()}") from None


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_at_every_point_of_its_way_a_rollout_ends_as_if_nothing_had_been(
    workspace: MakeWorkspace, nursery: Nursery
) -> None:
    ws = workspace(config=PATIENT)
    nursery.serve(ws)
    lives = Lives(ws, nursery)

    def is_over() -> bool:
        rows = ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)
        return bool(rows) and ws.standing(rows[0]["id"])[0] == "completed" and len(ws.owners()) == 1

    def deploy() -> None:
        if not ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY):
            ws.deploy()

    lives.run(deploy, is_over, CHAOS_BEGINS="rollout planned")
    (row,) = ws.rows("SELECT id FROM rollout WHERE to_release = ?", CANARY)
    assert ws.path(row["id"]) == list(WHOLE_PATH)
    assert_whole(ws, lives, CANARY)


@pytest.mark.long
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("after", ["step_baking", "completed"])
def test_killed_at_every_point_of_a_way_back_it_ends_as_if_nothing_had_been(
    workspace: MakeWorkspace, nursery: Nursery, after: str
) -> None:
    """Back from the first step of a canary, and back from the release that a rollout has brought."""
    ws = workspace(config=PATIENT)
    nursery.serve(ws)
    lives = Lives(ws, nursery)
    home, releases = STABLE, [CANARY]
    if after == "completed":
        home, releases = CANARY, [CANARY, RELEASES[2]]  # one returns to what a rollout has verified
    for release in releases:
        ws.wait_for(ws.deploy(release), after, timeout_s=SLOW_S)
    moves = "SELECT id, state FROM rollout WHERE state IN ('rolling_back', 'rolled_back')"

    def back() -> None:
        if not ws.rows(moves):
            ws.ask("rollback", "service/chat", env="production", reason="it looks wrong")

    def is_over() -> bool:
        rows = ws.rows(moves)
        return bool(rows) and rows[0]["state"] == "rolled_back" and len(ws.owners()) == 1

    lives.run(back, is_over, CHAOS_BEGINS="rollout rolling_back")
    (row,) = ws.rows(moves)
    assert [state for state, _ in ws.path(row["id"])][-2:] == ["rolling_back", "rolled_back"]
    assert_whole(ws, lives, home)


def assert_whole(ws: Workspace, lives: Lives, release: str) -> None:
    """The world is the one that a rollout nobody disturbed would have left."""
    ws.assert_in_order()
    ws.assert_serves_only(release)
    lives.look()
    report = lives.users.stop()
    say(f"{len(lives.named())} points, {report.answered} answered, {report.failed} failed")
    assert report.failed == 0, report
    assert len(lives.named()) > 15, lives.named()
