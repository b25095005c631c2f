"""Starting and stopping the workspace's engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from console import diagnostics
from console.output import Outcome, Table, Text
from state.locks import is_locked
from state.words import (
    ERRORS_BY_EXIT,
    AirbossError,
    Conflict,
    ExitCode,
    OperationFailed,
    TimedOut,
    Unreachable,
    error_from_dict,
)

if TYPE_CHECKING:
    from console.commands.context import Context
    from engine.api.schemas import VerbRequest
    from state.paths import Paths

MODULE = "engine.daemon"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1
PROGRESS_S = 3.0
LAST_LINES = 12
EVERY_KIND = ("gateway", "model", "registry", "stage")
"""What outlives an engine that is told to stop alone."""


def command(root: Path) -> list[str]:
    """What runs the engine of the workspace at `root`: this interpreter, without the directory it stands in."""
    return [sys.executable, "-P", "-m", MODULE, "--workspace", str(root)]


def health(paths: Paths, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """What the workspace's engine says of itself; None when none answers."""
    from console.commands.reading import read

    try:
        return dict(read(paths.live_engine_socket(), "/v1/health", timeout_s=timeout_s))
    except Unreachable:
        return None


def ensure_engine(paths: Paths, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
    """The health of the workspace's engine, started first when none answers."""
    return health(paths) or start_engine(paths, timeout_s)


def start_engine(paths: Paths, timeout_s: float = START_TIMEOUT_S) -> dict[str, Any]:
    """Start the engine as a daemon and wait until it answers; its health.

    Raises ConfigError before anything is started; the engine's own error, with the last lines of its log, when it ends;
    TimedOut when it neither answers nor ends.
    """
    from state.config import load_config

    load_config(paths.root)
    log = paths.logs / "engine.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    begin = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            command(paths.root),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=paths.root,
            start_new_session=True,
        )
    started = told = time.monotonic()
    while time.monotonic() - started < timeout_s:
        code = process.poll()
        answer = health(paths)
        if answer is not None and (answer.get("pid") == process.pid or code is not None):
            return answer
        if code is not None:
            raise _ended(code, log, begin)
        if time.monotonic() - told >= PROGRESS_S:
            told = time.monotonic()
            diagnostics.note(f"the engine is starting ({told - started:.0f} s; {log})")
        time.sleep(POLL_S)
    raise TimedOut(
        f"the engine (pid {process.pid}) does not answer after {timeout_s:g} s; it is still starting",
        hint=f"its log is {log}; `airboss status` asks again",
    )


def _ended(code: int, log: Path, begin: int) -> AirbossError:
    """The error of an engine that ended, from its exit code and what it wrote since `begin`."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = [line for line in file.read().decode("utf-8", errors="replace").splitlines() if line.strip()]
    for line in lines[-LAST_LINES:]:
        diagnostics.say(f"  {line}")
    said = next((found for line in reversed(lines) if (found := _error_in(line))), None)
    if said is not None:
        return said
    kind = ERRORS_BY_EXIT.get(code, OperationFailed)
    how = f"left with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
    return kind(f"the engine {how} before it answered", hint=f"its log is {log}", code="engine_ended")


def _error_in(line: str) -> AirbossError | None:
    """An error that the engine wrote as JSON, `{"error": …}`."""
    try:
        body = json.loads(line)
    except ValueError:
        return None
    fault = body.get("error") if isinstance(body, dict) else None
    return error_from_dict(fault) if isinstance(fault, dict) and "exit" in fault else None


def up(context: Context, *, detach: bool, timeout_s: float) -> Outcome:
    """Start the engine; unchanged when it runs."""
    paths = context.paths
    running = health(paths)
    if running is not None:
        if not detach:
            raise Conflict(
                f"this workspace's engine runs already, as pid {running['pid']}", hint="`airboss down` stops it"
            )
        return _is_up(running, "unchanged: the engine runs")
    if not detach:
        _become_engine(paths)
    return _is_up(start_engine(paths, timeout_s), "the engine runs")


def _is_up(answer: dict[str, Any], said: str) -> Outcome:
    text = f"{said}, pid {answer.get('pid')}, version {answer.get('version')}"
    return Outcome("Engine", [answer], blocks=(Text(text),), names=(f"engine/{answer.get('pid')}",), ref="engine")


def _become_engine(paths: Paths) -> NoReturn:
    from state.config import load_config

    load_config(paths.root)
    sys.stdout.flush()
    sys.stderr.flush()
    words = command(paths.root)
    os.execv(words[0], words)


def down(context: Context, *, request: VerbRequest) -> Outcome:
    """Stop the engine, wait until it has let go, and list what still serves."""
    from console.commands.acting import act
    from console.commands.children import serving_children

    sent = request.model_copy(
        update={
            "dry_run": context.options.dry_run,
            "yes": context.options.yes,
            "confirm_name": context.options.confirm_name,
            "reason": context.options.reason,
            "idempotency_key": context.options.idempotency_key,
        }
    )
    deadline = time.monotonic() + (context.options.timeout_s or STOP_TIMEOUT_S)
    if not context.engine_url and not _answers(context.paths, deadline):
        orphans = serving_children(context.paths, EVERY_KIND)
        if not orphans or sent.verb != "engine.drain" or sent.dry_run:
            return _what_serves("unchanged: no engine runs", orphans)
        # Ended by an engine that adopts them first, so that it is done in order and stands in the record.
        sys.stderr.write("no engine runs; one is started to end what still serves\n")
        start_engine(context.paths)
    outcome = act(sent, context)
    if sent.dry_run or context.engine_url:
        return outcome
    while health(context.paths) is not None or is_locked(context.paths.engine_lock):
        if time.monotonic() > deadline:
            raise TimedOut("the engine was told to stop and has not ended yet", hint="`airboss status` asks again")
        time.sleep(POLL_S)
    return _what_serves("the engine is down", serving_children(context.paths, EVERY_KIND))


def _answers(paths: Paths, deadline: float) -> bool:
    """An engine answers. One that has the workspace and is silent is beginning or ending: it is waited for.

    Raises TimedOut when it does neither by `deadline`.
    """
    while health(paths) is None:
        if not is_locked(paths.engine_lock):
            return False
        if time.monotonic() > deadline:
            raise TimedOut(
                f"an engine has {paths.root} and does not answer; it is beginning, ending or stuck",
                hint=f"its log is {paths.logs / 'engine.log'}; `airboss status` asks again",
            )
        time.sleep(POLL_S)
    return True


def _what_serves(said: str, children: list[dict[str, Any]]) -> Outcome:
    table = Table(
        ("REPLICA", "KIND", "SERVICE", "ENV", "RELEASE", "PID"),
        [
            (c["spawn_id"], c["kind"], c["service"] or "-", c["env"] or "-", c["release_id"] or "-", str(c["pid"]))
            for c in children
        ],
        frozenset({5}),
        title="still running",
        empty="nothing",
    )
    return Outcome(
        "Engine",
        [{"state": "down", "serving": children}],
        blocks=(Text(said), table),
        names=[f"replica/{c['spawn_id']}" for c in children],
        exit=ExitCode.OK,
        ref="engine",
    )
