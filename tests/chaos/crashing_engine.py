"""The engine, made to die at one exact point of its journal. Run as a script in the engine's place, or forked by a nursery.

A point is a moment before or after something that lasts: a commit that touches a rollout, an intent, a track or a spawn,
a process started or ended, a table given to a gateway worker, an alias set in the registry. Points are counted from the commit that plans a rollout on, or that CHAOS_BEGINS names,
(with CHAOS_COUNTS=at once: from the start on) and written to CHAOS_POINTS, one a line. CHAOS_CRASH_AT is the number of the point, or words that its name must have (`&`
between them): there the process gets SIGKILL, from itself, with nothing flushed and nothing closed.

CHAOS_KILLED names a file instead: the engine dies at the first point that the file does not name yet, and adds it. A point's
name there tells the rollout's state and step too, once the engine is up, so that lives one after the other die at each point
of one rollout.

With `--nursery` the script imports everything once and forks an engine for each line of JSON on its standard input (`argv`,
`env`, `cwd`, `log`), answering with its pid: importing is most of what a start costs.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event
from sqlmodel import Session

import engine.daemon
from adapters.local.child import ChildSpec
from adapters.local.gateway import LocalGateway
from adapters.local.spawn import Child, ChildExit, Spawner
from adapters.registry_client import RegistryClient
from state.models import Intent, KeyValue, Rollout, Spawn, TrackState
from state.store import Store

T = TypeVar("T")
_lock = threading.Lock()
_passed = 0
_up = threading.Event()


class _WhenUp(logging.Handler):
    """Hears the engine say that it is up: what it passes until then is the same in every life."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith("engine up"):
            _up.set()


logging.getLogger("airboss.engine").addHandler(_WhenUp())


def point(name: str) -> None:
    """The engine has come to `name`; it ends here if this is the one."""
    global _passed
    crash_at, env = os.environ.get("CHAOS_CRASH_AT", ""), os.environ
    with _lock:
        if (
            not _passed
            and env.get("CHAOS_COUNTS") != "at once"
            and env.get("CHAOS_BEGINS", "rollout planned") not in name
        ):
            return
        _passed += 1
        if "CHAOS_KILLED" in env:
            is_here = is_first_here(f"{standing() if _up.is_set() else 'coming up'}: {name}", Path(env["CHAOS_KILLED"]))
        else:
            with Path(env["CHAOS_POINTS"]).open("a") as file:
                file.write(f"{_passed} {name}\n")
                file.flush()
            is_named = crash_at and not crash_at.isdigit() and all(word in name for word in crash_at.split("&"))
            is_here = is_named or str(_passed) == crash_at
        if is_here:
            os.kill(os.getpid(), signal.SIGKILL)


def is_first_here(name: str, killed: Path) -> bool:
    """No life has died at this point; it is written down now."""
    if killed.exists() and name in killed.read_text().splitlines():
        return False
    with killed.open("a") as file:
        file.write(f"{name}\n")
    return True


def standing() -> str:
    """State and step of the newest rollout, as they are committed."""
    store = Path(sys.argv[sys.argv.index("--workspace") + 1]) / ".airboss" / "state.db"
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, timeout=30.0)) as db:
        state, step = db.execute("SELECT state, step FROM rollout ORDER BY created_at DESC LIMIT 1").fetchone()
    return f"{state}({step})"


def says(row: object) -> str:
    """What a written row is, in a point's name; "" for rows that are no part of the journal."""
    match row:
        case Rollout():
            return f"rollout {row.state}"
        case Intent():
            return f"intent {row.kind} {row.state}"
        case Spawn():
            return f"spawn {row.kind} {row.state}" + (" to stop" if row.desired == "stop" else "")
        case TrackState():
            return f"track {row.track}"
        case KeyValue(key="gateway.revision"):
            return "revision"
    return ""


@event.listens_for(Session, "after_flush")
def _remember(session: Session, _context: object) -> None:
    rows = [*session.new, *session.dirty, *session.deleted]
    session.info.setdefault("touched", []).extend(words for row in rows if (words := says(row)))


_once = Store._once


def once(self: Store, fn: Callable[[Session], T]) -> Any:
    touched: list[str] = []

    def noted(session: Session) -> T:
        value = fn(session)
        session.flush()
        touched.extend(dict.fromkeys(session.info.pop("touched", [])))
        if touched:
            point(f"before commit: {', '.join(touched)}")
        return value

    value = _once(self, noted)
    if touched:
        point(f"after commit: {', '.join(touched)}")
    return value


_write, _spawn, _terminate, _put_one = ChildSpec.write, Spawner.spawn, Child.terminate, LocalGateway._put_one
_set_alias = RegistryClient.set_alias


def write(self: ChildSpec, path: Path) -> None:
    _write(self, path)
    point(f"after the spec of a {self.kind}")


def spawn(self: Spawner, spec: ChildSpec, *args: Any, **options: Any) -> Child:
    child = _spawn(self, spec, *args, **options)
    point(f"after the start of a {spec.kind}")
    return child


async def terminate(self: Child, grace_s: float) -> ChildExit:
    point(f"before the end of a {self.spec.kind}")
    ended = await _terminate(self, grace_s)
    point(f"after the end of a {self.spec.kind}")
    return ended


async def put_one(self: LocalGateway, path: str, table: Any) -> None:
    point("before a worker's table")
    await _put_one(self, path, table)
    point("after a worker's table")


def set_alias(self: RegistryClient, model_name: str, alias: str, version: str) -> None:
    point(f"before the alias {alias}")
    _set_alias(self, model_name, alias, version)
    point(f"after the alias {alias}")


def nursery() -> int:
    """Fork the engines that are asked for; returns an engine's exit code in a fork, 0 here at the end of input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them here
    for line in sys.stdin:
        wish = json.loads(line)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            log = os.open(wish["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            for number, source in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
                os.dup2(source, number)
            os.chdir(wish["cwd"])
            os.environ.update(wish["env"])
            sys.argv[1:] = wish["argv"]
            return engine.daemon.main()
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    RegistryClient.set_alias = set_alias  # type: ignore[method-assign]
    Store._once = once  # type: ignore[method-assign]
    ChildSpec.write = write  # type: ignore[method-assign]
    Spawner.spawn = spawn  # type: ignore[method-assign]
    Child.terminate = terminate  # type: ignore[method-assign]
    LocalGateway._put_one = put_one  # type: ignore[method-assign]
    sys.exit(nursery() if "--nursery" in sys.argv else engine.daemon.main())
