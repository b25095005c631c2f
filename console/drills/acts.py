"""What each drill does, with the real verbs on the real processes. Each returns what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.admin_socket import request as admin
from console.commands.children import serving_children
from console.commands.starting import ensure_engine, health
from console.drills.users import Users
from state.words import ExitCode, OperationFailed, TimedOut

if TYPE_CHECKING:
    from console.commands.context import Context

Measured = dict[str, float | None]
POLL_S = 0.02
STEPS = [50, 100]


class Play:
    """One drill being played: where, with which release, and what its users meet."""

    def __init__(self, context: Context, service: str, env: str, twin: str, reason: str, patience_s: float) -> None:
        self.context, self.service, self.env, self.twin = context, service, env, twin
        self.reason, self.patience_s = reason, patience_s
        self.rollout = ""

    def until(self, claim: Callable[[], Any], what: str) -> float:
        """Wait until `claim` is true; the seconds it took. Raises TimedOut."""
        begun = time.monotonic()
        while not claim():
            if time.monotonic() - begun > self.patience_s:
                raise TimedOut(f"not within {self.patience_s:.0f} s: {what}", hint="--timeout gives it longer")
            time.sleep(POLL_S)
        return time.monotonic() - begun

    def verb(self, name: str, /, **args: Any) -> Any:
        """Ask the engine for a verb on the service, confirmed: that was done when the drill began."""
        from engine.api.schemas import VerbRequest

        wish = VerbRequest(verb=name, ref=f"service/{self.service}", args={"env": self.env, **args}, yes=True,
                           confirm_name=self.service, reason=self.reason)  # fmt: skip
        return self.context.client.verb(wish)

    def begin_canary(self) -> None:
        """Roll the twin out and wait until half of the traffic is its."""
        self.rollout = self.verb("deploy", release=self.twin, steps=STEPS).ref.partition("/")[2]
        diagnostics.note(f"{self.rollout}: {self.twin} takes half of the traffic")

        def has_users() -> bool:
            state = self.state()
            if state in ("awaiting_approval", "rolled_back", "cancelled", "paused", "stuck"):
                raise OperationFailed(
                    f"{self.rollout} is {state} and not on its way: {self.view()['message']}",
                    hint="a drill needs an environment whose policy wants no approval, and capacity for one more replica",
                )
            return bool(self.weight_of_twin())

        self.until(has_users, f"{self.twin} has users")

    def view(self) -> Any:
        """The rollout as the engine shows it."""
        return self.context.get(f"/v1/rollouts/{self.rollout}")

    def state(self) -> str:
        """Where the rollout stands."""
        return str(self.view()["state"])

    def weight_of_twin(self) -> int:
        """The twin's share in the tables of the gateway's own workers, the largest of any."""
        most = 0
        for child in serving_children(self.context.paths, ("gateway",)):
            with contextlib.suppress(OSError, ValueError, KeyError):
                _, body = admin(str(child["socket"]), "GET", "/admin/table")
                for route in json.loads(body)["routes"]:
                    if (route["service"], route["env"]) == (self.service, self.env):
                        most = max([most, *(b["weight"] for b in route["backends"] if b["release_id"] == self.twin)])
        return int(most)

    def end(self) -> None:
        """Whatever went wrong: leave nobody on the twin."""
        if self.rollout:
            ensure_engine(self.context.paths)
            if self.state() not in ("rolled_back", "cancelled", "superseded", "rolling_back"):
                self.verb("rollback")
            self.until(lambda: self.state() in ("rolled_back", "cancelled", "superseded"), f"{self.rollout} is over")


def rollback(play: Play) -> Measured:
    """From the request to the twin's last user."""
    with Users(play.context, play.service, play.env) as users:
        play.begin_canary()
        play.until(lambda: users.last_of(play.twin), f"a user meets {play.twin}")
        asked = time.monotonic()
        play.verb("rollback")
        answered_s = time.monotonic() - asked
        switch_s = play.until(lambda: not play.weight_of_twin(), "every worker has the table") + answered_s
        play.until(lambda: play.state() == "rolled_back", f"{play.rollout} is rolled back")
        users.stop()
        last = users.last_of(play.twin)
        return {
            "last_user_s": max(0.0, (last or asked) - asked), "switch_s": switch_s, "answered_s": answered_s,
            "failed_requests": users.failed, "requests": len(users.met),
        }  # fmt: skip


def slo(play: Play) -> Measured:
    """From the bad release's first user to the last, found by the judge alone."""
    with Users(play.context, play.service, play.env, rps=40.0) as users:
        play.begin_canary()
        begun = time.monotonic()
        states = ("rolling_back", "rolled_back", "paused")
        found_s = play.until(lambda: play.state() in states, "the judge finds it")
        if play.state() == "paused":
            raise OperationFailed(f"{play.rollout} was paused, not rolled back: {play.view()['message']}")
        play.until(lambda: not play.weight_of_twin(), "all users are back")
        back_s = time.monotonic() - begun
        users.stop()
        return {"found_s": found_s, "back_s": back_s, "failed_requests": users.failed, "requests": len(users.met)}


def kill(play: Play) -> Measured:
    """SIGKILL of the engine; nobody may notice but it."""
    paths = play.context.paths
    with Users(play.context, play.service, play.env) as users:
        play.until(lambda: len(users.met) > 5, "the first users are answered")
        before = {(c["spawn_id"], c["pid"]) for c in serving_children(paths)}
        back_s = _kill_engine(play)
        seen = len(users.met)
        play.until(lambda: len(users.met) > seen + 10, "users go on")
        users.stop()
        lost = before - {(c["spawn_id"], c["pid"]) for c in serving_children(paths)}
        if users.failed or lost:
            raise OperationFailed(f"{users.failed} requests failed and {len(lost)} processes were lost with the engine")
        return {"back_s": back_s, "failed_requests": 0, "requests": len(users.met)}


def replica(play: Play) -> Measured:
    """SIGKILL of one model server of the service."""
    return _kill_child(play, "model", lambda c: (c["service"], c["env"]) == (play.service, play.env))


def gateway(play: Play) -> Measured:
    """SIGKILL of one gateway worker."""
    return _kill_child(play, "gateway", lambda c: True)


def emergency(play: Play) -> Measured:
    """A rollback with the engine dead, and the engine that takes it up."""
    from console import emergency as without_engine

    paths = play.context.paths
    with Users(play.context, play.service, play.env) as users:
        play.begin_canary()
        play.until(lambda: (paths.rollback / f"{play.service}@{play.env}.json").exists(), "the way back is kept ready")
        pid = int((health(paths) or {})["pid"])
        os.kill(pid, signal.SIGKILL)
        play.until(lambda: health(paths) is None, "the engine is dead")
        asked = time.monotonic()
        done = without_engine.run(play.context, service=play.service, env=play.env, force=False)
        command_s = time.monotonic() - asked
        if done.exit is not ExitCode.OK or play.weight_of_twin():
            raise OperationFailed("the emergency rollback did not move the traffic")
        begun = time.monotonic()
        ensure_engine(paths)
        play.until(lambda: play.state() == "rolled_back", "the engine has taken it up")
        imported_s = time.monotonic() - begun
        users.stop()
        last = users.last_of(play.twin)
        return {
            "command_s": command_s, "last_user_s": max(0.0, (last or asked) - asked), "imported_s": imported_s,
            "failed_requests": users.failed, "requests": len(users.met),
        }  # fmt: skip


def restore(play: Play) -> Measured:
    """A backup made now, put back in a directory of its own and checked; how old the newest one before it was."""
    from console.commands.keeping import directories
    from state.backup import restore as put_back
    from state.backup_sets import backups, take, verify
    from state.databases import copier

    context = play.context
    places = directories(context)
    earlier = backups(*places)
    newest = max((one.made_at for one in earlier), default=None)
    begun = time.monotonic()
    made = take(
        context.paths.store,
        reason="drill",
        directory=places[-1],
        config=context.paths.root / "airboss.toml",
        keep=1,
        copier=copier(context.config.state, context.paths),
    )
    backup_s = time.monotonic() - begun
    with tempfile.TemporaryDirectory(prefix=".drill-", dir=context.paths.state) as scratch:
        begun = time.monotonic()
        put_back(Path(scratch) / "state.db", made.store)
        wrong = verify(made)
        rto_s = time.monotonic() - begun
    if wrong:
        raise OperationFailed(f"the backup would not bring everything back: {'; '.join(wrong)}")
    lost = made.audit_rows - earlier[-1].audit_rows if earlier else None
    return {
        "rto_s": rto_s, "rpo_s": time.time() - newest if newest is not None else None, "backup_s": backup_s,
        "lost_audit_rows": lost, "bundles": len(made.releases),
    }  # fmt: skip


ACTS: dict[str, Callable[[Play], Measured]] = {
    "rollback": rollback, "kill": kill, "replica": replica, "gateway": gateway, "slo": slo, "restore": restore,
    "emergency": emergency,
}  # fmt: skip


def _kill_engine(play: Play) -> float:
    """End the engine and have one again; the seconds until it answers. Whoever supervises it may be faster than we."""
    paths = play.context.paths
    pid = int((health(paths) or {})["pid"])
    begun = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    play.until(lambda: (health(paths) or {}).get("pid") != pid, "the engine is dead")
    ensure_engine(paths, play.patience_s)
    return time.monotonic() - begun


def _kill_child(play: Play, kind: str, is_mine: Callable[[dict[str, Any]], bool]) -> Measured:
    paths = play.context.paths
    view = "replicas_ready" if kind == "model" else "gateway_ready"
    with Users(play.context, play.service, play.env) as users:
        play.until(lambda: len(users.met) > 5, "the first users are answered")
        before = int(play.context.get("/v1/status")[view])
        mine = [c for c in serving_children(paths, (kind,)) if is_mine(c)]
        if not mine:
            raise OperationFailed(f"no {kind} of {play.service} in {play.env} runs here", hint="`airboss service list`")
        begun = time.monotonic()
        os.kill(int(mine[0]["pid"]), signal.SIGKILL)
        gone = mine[0]["spawn_id"]
        play.until(lambda: gone not in {c["spawn_id"] for c in serving_children(paths, (kind,))}, "it is dead")
        play.until(lambda: int(play.context.get("/v1/status")[view]) < before or _has_successor(play, kind, mine, is_mine), "it is missed")  # fmt: skip
        play.until(lambda: int(play.context.get("/v1/status")[view]) >= before, f"there are {before} again")
        back_s = time.monotonic() - begun
        good = sum(one.is_good for one in users.met)
        play.until(lambda: sum(one.is_good for one in list(users.met)) > good + 5, "users are answered again")
        users.stop()
        return {"back_s": back_s, "failed_requests": users.failed, "requests": len(users.met)}


def _has_successor(
    play: Play, kind: str, before: list[dict[str, Any]], is_mine: Callable[[dict[str, Any]], bool]
) -> bool:
    known = {c["spawn_id"] for c in before}
    return any(c["spawn_id"] not in known for c in serving_children(play.context.paths, (kind,)) if is_mine(c))
