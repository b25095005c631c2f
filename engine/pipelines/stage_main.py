"""The child that runs one stage: `python -P -m engine.pipelines.stage_main SPEC.json`, or `--wait WHAT` to be told it.

It takes the lock of its outputs' place, looks whether another process has made them meanwhile, calls the stage
function, and commits the outputs itself, under the lock: so single flight and the cache hold while no engine runs.
Exit codes: 0 outputs kept · 8 a gate said no · 1 error (see error.json). Nothing is kept of the last two.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapters.local.child import ChildSpec, run_child, write_json
from adapters.local.waiting import WAIT, told
from engine.pipelines.cache import OUT, OutputsChanged, Place
from engine.pipelines.fingerprint import code_digest, marks_hold, source_digest
from engine.pipelines.stage import ERROR_NAME, RESULT_NAME, Gate, StageContext, StageResult, say
from state.words import AirbossError, ExitCode, GateRefused, OperationFailed, UsageError


class WorldMoved(OperationFailed):
    """Code or data is not what it was when the run was planned, so the outputs' key would lie."""

    code = "world_moved"
    retryable = True


def main(argv: list[str]) -> int:
    """Be the stage that the spec describes."""
    if argv[1:2] == [WAIT]:
        spec = wait(json.loads(argv[2]))
        if spec is None:
            return int(ExitCode.OK)
        argv = [argv[0], str(spec)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # a log line must never end a stage
    return run_child(argv, run_stage)


def wait(what: Mapping[str, Any]) -> Path | None:
    """Import what the stage of `what` (entry, params) will need, and wait for its spec; None when it never comes.

    Code that was edited in between is read anew, by a process that has imported none of it.
    """
    before = code_digest(what["entry"])
    with contextlib.suppress(Exception):  # the stage itself meets it again, and says it
        module = importlib.import_module(what["entry"].partition(":")[0])
        getattr(module, "warm", lambda params: None)(what["params"])
    spec = told()
    if spec is not None and ChildSpec.read(spec).payload["made_of"]["code"] != before:
        os.execv(sys.executable, [sys.executable, "-P", "-m", "engine.pipelines.stage_main", str(spec)])
    return spec


def run_stage(spec: ChildSpec) -> int:
    """Make the outputs, or find that they are made; returns the exit code."""
    task = spec.payload
    aside = Path(task["aside"])
    place = Place(Path(task["place"]))
    say(message="stage", stage=task["stage"], run=task["run_id"], attempt=task["attempt"], why=task["why"])
    try:
        with place.making():
            if task["reuse"] and _is_made(place, task["key"]):
                say(message="another process made these outputs; they are used")
                return int(ExitCode.OK)
            shutil.rmtree(aside, ignore_errors=True)
            (aside / OUT).mkdir(parents=True)
            result = _call(task, aside / OUT)
            write_json(aside / OUT / RESULT_NAME, result.to_json())
            if refused := result.refused_by:
                say(message="gate failed", gates=[gate.sentence for gate in refused])
                return int(ExitCode.GATE)
            _check_world(task)
            manifest = place.commit(
                aside, key=task["key"], stage=task["stage"], spawn_id=spec.spawn_id, made_of=task["made_of"]
            )
            say(message="outputs kept", key=task["key"][:12], digest=manifest.digest[:12], files=len(manifest.files))
            return int(ExitCode.OK)
    except GateRefused as error:
        _fail(aside, error, retryable=False)
        return int(ExitCode.GATE)
    except AirbossError as error:
        _fail(aside, error, retryable=error.retryable)
    except OutputsChanged as error:
        _fail(aside, error, retryable=False)
    except (ConnectionError, TimeoutError) as error:
        _fail(aside, error, retryable=True)
    except Exception as error:  # foreign code's boundary: whatever it raises becomes a recorded fact
        _fail(aside, error, retryable=False)
    return int(ExitCode.FAILED)


def _is_made(place: Place, key: str) -> bool:
    try:
        return place.verified(key) is not None
    except OutputsChanged as error:
        say(message="kept outputs are unusable; they are made anew", why=str(error))
        return False


def _call(task: Mapping[str, Any], out_dir: Path) -> StageResult:
    sys.path.extend(task["code_paths"])
    module_name, _, name = task["entry"].partition(":")
    function: Callable[[StageContext], StageResult] | None = getattr(importlib.import_module(module_name), name, None)
    if function is None:
        raise UsageError(f"module {module_name} has no function {name}", hint="see the stage's entry in the pipeline")
    result = function(
        StageContext(
            run_id=task["run_id"],
            stage=task["stage"],
            params=task["params"],
            inputs={need: Path(path) for need, path in task["inputs"].items()},
            out_dir=out_dir,
            registry_socket=task["registry_socket"],
            context=task["context"],
            forced=not task["reuse"],
            executor=task.get("executor", {}),
            key=task["key"],
            attempt=task["attempt"],
            timeout_s=task.get("timeout_s", 3600.0),
        )
    )
    if not isinstance(result, StageResult):
        raise TypeError(f"{task['entry']} returned {type(result).__name__}, not a StageResult")
    reported = {gate.name for gate in result.gates}
    missing = [Gate(name, None, 0.0, ">=") for name in task["required_gates"] if name not in reported]
    return StageResult(result.metrics, (*result.gates, *missing), result.facts)


def _check_world(task: Mapping[str, Any]) -> None:
    """Raise WorldMoved when the stage's code or sources changed while it ran: the key names the old ones."""
    made_of = task["made_of"]
    marks = task["code_marks"]
    unchanged = marks is not None and marks_hold(marks)
    if not unchanged and code_digest(task["entry"], task["code_paths"]) != made_of["code"]:
        raise WorldMoved("the stage's code changed while it ran", hint="the stage runs again with the new code")
    for name, digest in made_of["sources"].items():
        if source_digest(task["params"][name], Path(task["context"]["workspace"])) != digest:
            raise WorldMoved(
                f"the data at {task['params'][name]} changed while it was read", hint="the stage runs again"
            )


def _fail(aside: Path, error: BaseException, *, retryable: bool) -> None:
    traceback.print_exception(error)
    hint = error.hint if isinstance(error, AirbossError) else ""
    message = str(error) if isinstance(error, AirbossError) else f"{type(error).__name__}: {error}"
    (aside / OUT).mkdir(parents=True, exist_ok=True)
    write_json(aside / OUT / ERROR_NAME, {"message": message, "hint": hint, "retryable": retryable})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
