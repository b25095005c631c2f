"""Watches: a line for each change until the thing is over. JSON lines under -o json, with a type and a rising seq."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.conditions import progress_line
from console.commands.format import clock
from console.commands.objects import fetch
from console.commands.refs import name_of
from console.commands.requests import ViewRequest
from console.commands.source import Source
from console.output import Outcome
from state.words import RolloutState, RunState, Unreachable, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

POLL_S = 1.0
LOG_POLL_S = 0.3


def watch(request: ViewRequest, context: Context) -> Outcome:
    """Print each change as it comes. Ctrl-C ends the watch and nothing else."""
    try:
        if request.view == "log":
            return _follow(request, context)
        if request.view == "rollouts":
            return _watch_list(request, context)
        return _watch_one(request, context)
    except KeyboardInterrupt:
        raise diagnostics.Interrupted("the watch ended; what it watched goes on") from None


def _watch_one(request: ViewRequest, context: Context) -> Outcome:
    kind, told = request.view, None
    while True:
        try:
            item = fetch(context.get, request.ref)
        except Unreachable:
            if told is None:
                raise
            time.sleep(POLL_S)
            continue
        seen = item if context.is_json else progress_line(kind, item)
        if seen != told:
            _print(context, "ADDED" if told is None else "MODIFIED", kind, item)
            told = seen
        if _is_over(kind, item):
            return Outcome.printed(ref=request.ref)
        time.sleep(POLL_S)


def _watch_list(request: ViewRequest, context: Context) -> Outcome:
    told: dict[str, Any] = {}
    while True:
        try:
            found = Source(context).rollouts(
                request.args.get("service"), request.env, is_active=bool(request.args.get("active"))
            )
            items = {str(i["id"]): i for i in found}
        except Unreachable:
            if not told:
                raise
            time.sleep(POLL_S)
            continue
        for name, item in reversed(items.items()):
            seen = item if context.is_json else progress_line("rollout", item)
            if told.get(name) != seen:
                _print(context, "MODIFIED" if name in told else "ADDED", "rollout", item)
                told[name] = seen
        for name in [name for name in told if name not in items]:
            del told[name]
            if context.is_json:
                context.output.event("DELETED", kind="Rollout", id=name)
        time.sleep(POLL_S)


def _print(context: Context, type_: str, kind: str, item: Mapping[str, Any]) -> None:
    if context.is_json:
        context.output.event(type_, kind=kind.capitalize(), object=item)
    else:
        context.output.line(f"{clock(time.time())}  {progress_line(kind, item)}")


def _is_over(kind: str, item: Mapping[str, Any]) -> bool:
    return RolloutState(item["state"]).is_terminal if kind == "rollout" else RunState(item["state"]).is_over


def _follow(request: ViewRequest, context: Context) -> Outcome:
    """One stage's log until the stage is over, or every stage's until the run is."""
    run_id, wanted = name_of(request.ref), request.args.get("stage")
    offsets: dict[str, int] = {}
    done: set[str] = set()
    while True:
        run = fetch(context.get, request.ref)
        names = [s["name"] for s in run["stages"]]
        if wanted is not None and wanted not in names:
            raise UsageError(
                f"{run_id} has no stage {wanted!r}", hint=f"its stages: {', '.join(names)}", code="no_stage"
            )
        for stage in [wanted] if wanted else names:
            if stage not in done and _print_more(context, run_id, stage, offsets, with_title=wanted is None):
                done.add(stage)
        if wanted in done or (RunState(run["state"]).is_over and len(done) >= len(offsets)):
            return Outcome.printed(ref=request.ref)
        time.sleep(LOG_POLL_S)


def _print_more(context: Context, run_id: str, stage: str, offsets: dict[str, int], *, with_title: bool) -> bool:
    """Print what is new in a stage's log; True once there will be no more."""
    while True:
        chunk = context.get(f"/v1/runs/{run_id}/log/{stage}", {"offset": offsets.get(stage, 0)})
        if chunk["text"]:
            if context.is_json:
                context.output.event("LOG", run=run_id, stage=stage, text=chunk["text"])
            else:
                if with_title and stage not in offsets:
                    context.output.line(f"==> {stage} <==")
                context.output.raw(chunk["text"])
            offsets[stage] = int(chunk["next_offset"])
        if bool(chunk["is_over"]) or not chunk["text"]:
            return bool(chunk["is_over"])
