"""`rollback --emergency` where the plan leads into a cluster: a program of the adapter's looks there, and goes back when told so.

What splits the traffic decides what is done here: where our own gateway does, the program has the pods and the table gets their
addresses; else the program moves the traffic too. Where the cluster cannot be reached the plan's kubectl lines are printed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.switching import Plan, apply, fresh_route, kept_table
from console.emergency import START_TIMEOUT_S, act_of, confirm, demand_writable, outcome, spill, what_changes
from console.output import Outcome, Text
from state.paths import Paths
from state.words import AirbossError, ExitCode, OperationFailed, Unreachable, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

PROGRAM = "adapters.kubernetes.emergency"


def roll_back(context: Context, plan: Plan, *, force: bool) -> Outcome:
    """Apply a plan whose replicas are pods."""
    way = plan["cluster"]
    try:
        with _program(context.paths, plan) as program:
            seen = _answer(program)
            if way["traffic"] == "gateway":
                return _by_our_gateway(context, plan, program, seen, force=force)
            return _by_the_cluster(context, plan, program, seen)
    except AirbossError as error:
        if isinstance(error, Unreachable) or error.code.startswith("kube_"):
            diagnostics.say("by hand, from wherever the cluster can be reached:")
            for line in way.get("kubectl") or ():
                diagnostics.say(f"  {line}")
        raise


def _by_the_cluster(
    context: Context, plan: Plan, program: subprocess.Popen[str], seen: Mapping[str, Any]
) -> Outcome:  # fmt: skip
    """An HTTPRoute, or a Service's selector, is given back."""
    route = dict(plan["route"])
    before = {"backends": [{"release_id": r, "weight": w} for r, w in (seen["weights"] or {}).items()]}
    lines = what_changes(before, route)
    cold = not seen["replicas"]
    if context.options.dry_run:
        by_hand = Text("\n".join(("by hand:", *seen["kubectl"])))
        return outcome(plan, lines, [], "would roll back", route, exit=ExitCode.OK, cold=cold, more=(by_hand,))
    demand_writable(context)
    confirm(context, plan, lines)
    done = _go(context, plan, program, cold=cold)
    if done["written"]:
        act = act_of(context, plan, before=dict(plan["route"]), revision=0, answers=[], started=[])
        spill(context.paths, {**act, "cluster": {"weights": seen["weights"], "confirmed": done["confirmed"]}})
    if "error" in done:
        raise error_from_dict(done["error"])
    said = (
        f"rolled back: {plan['service']} in {plan['env']} is {plan['to_release']}, {len(done['replicas'])} pods ready"
    )
    return outcome(plan, lines, [], said, route, exit=ExitCode.OK, cold=cold)


def _by_our_gateway(
    context: Context, plan: Plan, program: subprocess.Popen[str], seen: Mapping[str, Any], *, force: bool
) -> Outcome:
    """Our gateway asks the pods: it is given the release's that are ready, once there are some."""
    table = kept_table(context.paths)
    route, cold = _to_pods(plan, table, seen["replicas"]), not seen["replicas"]
    served = next((r for r in table["routes"] if (r["service"], r["env"]) == (plan["service"], plan["env"])), None)
    lines = what_changes(served, route)
    if context.options.dry_run:
        return outcome(plan, lines, [], "would roll back", route, exit=ExitCode.OK, cold=cold)
    demand_writable(context)
    confirm(context, plan, lines)
    if cold or len(seen["replicas"]) < int(plan["cluster"]["spec"]["replicas"]):
        try:
            route = _to_pods(plan, table, _go(context, plan, program, cold=cold)["replicas"])
            cold = False
        except AirbossError as error:
            if cold and not force:
                raise
            diagnostics.note(error.message)
    revision, answers = apply(context.paths, table, route)
    spill(context.paths, act_of(context, plan, before=served, revision=revision, answers=answers, started=[]))
    refused = [f"{a.socket}: {a.error}" for a in answers if a.error]
    if refused or not answers:
        raise OperationFailed(
            f"of {len(answers)} gateway workers {len(refused)} did not take the table: {'; '.join(refused)}",
            hint="the table is kept, and the next worker to start serves it; run it again once one lives",
        )
    said = f"rolled back: {plan['service']} in {plan['env']} is {plan['to_release']}, table revision {revision}"
    return outcome(plan, lines, answers, said, route, exit=ExitCode.OK, cold=cold)


def _to_pods(plan: Plan, table: Mapping[str, Any], replicas: list[Any]) -> dict[str, Any]:
    """The plan's route with these replicas and no others: an address that was kept may be another pod's by now."""
    route, _ = fresh_route(plan, table)
    backends = [{**b, "replicas": replicas} if b["track"] == "stable" else b for b in route["backends"]]
    return {**route, "backends": backends}


def _go(context: Context, plan: Plan, program: subprocess.Popen[str], *, cold: bool) -> dict[str, Any]:
    if cold:
        diagnostics.note(f"no pod of {plan['to_release']} is ready; starting {plan['cluster']['spec']['replicas']}")
    assert program.stdin is not None
    program.stdin.write(f"go {context.options.timeout_s or START_TIMEOUT_S}\n")
    program.stdin.flush()
    return _answer(program, partly=True)


def _answer(program: subprocess.Popen[str], *, partly: bool = False) -> dict[str, Any]:
    """The program's next answer; notes on the way are said. Raises what it could not do; `partly`: but for what it has written."""
    assert program.stdout is not None
    for line in program.stdout:
        try:
            said = dict(json.loads(line))
        except ValueError:
            continue
        if set(said) == {"note"}:
            diagnostics.note(str(said["note"]))
        elif "error" in said and not (partly and "written" in said):
            raise error_from_dict(said["error"])
        else:
            return said
    raise Unreachable(
        f"the program that reaches the cluster ended without an answer ({PROGRAM}, exit {program.wait()})"
    )


@contextmanager
def _program(paths: Paths, plan: Plan) -> Iterator[subprocess.Popen[str]]:
    """It runs beside us, so that what needs the cluster's libraries can break nothing here."""
    program = subprocess.Popen(
        [sys.executable, "-P", "-m", PROGRAM, str(paths.root)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert program.stdin is not None
        program.stdin.write(json.dumps(plan) + "\n")
        program.stdin.flush()
        yield program
    except BrokenPipeError:
        raise Unreachable(f"the program that reaches the cluster has ended ({PROGRAM})") from None
    finally:
        program.kill()
        program.communicate()
