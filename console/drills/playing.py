"""`drill NAME` and `drill list`: ask the engine, play, record what was measured, and say whether the target was met."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.confirming import confirmed
from console.commands.format import ago, span
from console.commands.source import Source
from console.drills.acts import ACTS, Measured, Play
from console.drills.catalogue import DRILLS, Drill
from console.output import Outcome, Table, Text
from state.words import AirbossError, Denied, ExitCode, GateRefused, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context
    from engine.api.schemas import VerbRequest

PATIENCE_S = 300.0


def play(context: Context, *, name: str, request: VerbRequest, target_s: float | None) -> Outcome:
    """Play one drill on a live service. Raises AirbossError when it cannot be played, or came to no end."""
    drill = DRILLS[name]
    if context.engine_url:
        raise UsageError(
            "a drill is played on the host of the engine: it ends processes there", hint="leave --engine out"
        )
    if context.is_read_only:
        raise Denied("a drill changes things, and this console is read-only", code="read_only")
    options = context.options
    wish = request.model_copy(update={
        "dry_run": options.dry_run, "yes": options.yes, "confirm_name": options.confirm_name, "reason": options.reason,
        "args": {**request.args, "env": request.args.get("env") or _only_env(context, request)},
    })  # fmt: skip
    if options.dry_run:
        context.client.verb(wish)
        said = f"would {drill.about}; target: {drill.key} within {span(target_s or drill.target_s)}"
        return Outcome("Drill", [{"name": name, "dry_run": True}], blocks=(Text(said),))
    wish = confirmed(wish, context, lambda: diagnostics.note(f"the drill {name} will {drill.about}"))
    begun = context.client.verb(wish)
    twin = begun.ref.partition("/")[2] if begun.ref.startswith("release/") else ""
    # What the drill itself asks for was confirmed with it.
    context.options = replace(options, yes=True, reason=wish.reason or f"the drill {name}")
    service, env = wish.ref.partition("/")[2], str(wish.args["env"])
    stage = Play(context, service, env, twin, context.options.reason, options.timeout_s or PATIENCE_S)
    return _played(context, drill, stage, target_s or drill.target_s, twin_made=bool(twin))


def _played(context: Context, drill: Drill, stage: Play, target_s: float, *, twin_made: bool) -> Outcome:
    measured: Measured = {}
    trouble: AirbossError | None = None
    started = time.time()
    try:
        measured = ACTS[drill.name](stage)
    except AirbossError as caught:
        trouble = caught
    finally:
        with contextlib.suppress(AirbossError):
            stage.end()
    key = measured.get(drill.key)
    met = trouble is None and key is not None and key <= target_s and _users_unharmed(drill, measured)
    outcome = "met" if met else "failed" if trouble is not None else "missed"
    message = trouble.message if trouble is not None else ""
    stage.verb("drill.finish", name=drill.name, outcome=outcome, measured=measured, target_s=target_s, message=message)
    item = {
        "name": drill.name, "service": stage.service, "env": stage.env, "outcome": outcome, "measured": measured,
        "target_s": target_s, "started_at": started, "took_s": time.time() - started, "message": message,
    }  # fmt: skip
    rows = [(k, "-" if v is None else f"{v:.3f}" if k.endswith("_s") else f"{v:g}") for k, v in measured.items()]
    said = (
        f"drill {drill.name} of {stage.service} in {stage.env}: {outcome}; target: {drill.key} within {span(target_s)}"
    )
    error = trouble or (
        None if met else GateRefused(f"{said}, no user harmed", hint="`airboss drill list` has the earlier ones")
    )
    exit = ExitCode.OK if error is None else error.exit
    return Outcome(
        "Drill", [item], blocks=(Table(("MEASURED", "VALUE"), rows, frozenset({1})), Text(said)), names=(f"drill/{drill.name}",),
        error=error, exit=exit,
    )  # fmt: skip


def _users_unharmed(drill: Drill, measured: Measured) -> bool:
    """No request may fail, but where failing is what the drill is about."""
    return drill.name in ("slo", "replica", "gateway") or not measured.get("failed_requests")


def _only_env(context: Context, request: VerbRequest) -> str:
    service = request.ref.partition("/")[2]
    envs = sorted(
        {row["env"] for row in context.get("/v1/fleet") if row["service"] == service and row.get("release_id")}
    )
    if len(envs) != 1:
        raise UsageError(
            f"{service} is live in {', '.join(envs) or 'no environment'}; a drill wants one", hint="add --env ENV", code="env"
        )  # fmt: skip
    return str(envs[0])


def listing(context: Context) -> Outcome:
    """The drills there are, and how each went last."""
    source = Source(context)
    played = source.get("/v1/drills")
    now = time.time()
    rows, items = [], []
    for drill in DRILLS.values():
        last: dict[str, Any] | None = next((d for d in played if d["name"] == drill.name), None)
        items.append(
            {
                "name": drill.name,
                "about": drill.about,
                "measures": drill.measures,
                "target_s": drill.target_s,
                "last": last,
            }
        )
        value = last["measured"].get(drill.key) if last else None
        rows.append((
            drill.name, f"{ago(last['at'], now)} ago" if last else "never", last["outcome"] if last else "-",
            f"{last['service']}@{last['env']}" if last else "-", "-" if value is None else f"{drill.key} {value:.2f}",
            span(drill.target_s), drill.about,
        ))  # fmt: skip
    table = Table(("DRILL", "PLAYED", "OUTCOME", "ON", "MEASURED", "TARGET", "DOES"), rows)
    return Outcome(
        "Drill", items, blocks=(table,), names=[f"drill/{name}" for name in DRILLS], notes=tuple(source.notes)
    )
