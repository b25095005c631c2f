"""Verbs: complete the request, confirm it, send it, and wait if that was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console import diagnostics
from console.commands.conditions import GOOD_END, Condition
from console.commands.confirming import confirmed
from console.commands.format import NONE, span
from console.commands.refs import name_of
from console.output import Block, Outcome, Output, Table, Text
from console.wire import VERB_TIMEOUT_S
from state.words import AirbossError, Denied, ExitCode, Unreachable, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context
    from engine.api.schemas import VerbRequest, VerbResult

GOES_BACK = ("rollback", "rollout.abort", "rollout.reject")
COPIES = ("registry.import", "release.import")
COPYING_S = 3900.0
"""They answer once every byte is copied and hashed; the engine's own limits end them earlier."""
TAKES_ENV = (
    "deploy",
    "rollback",
    "hold",
    "unhold",
    "state.adopt",
    "state.enforce",
    "service.scale",
    "service.scale_down",
)


def act(request: VerbRequest, context: Context) -> Outcome:
    """Do the verb, or with --dry-run say what it would do."""
    if context.is_read_only and not request.dry_run:
        raise Denied(
            f"{request.verb} changes something, and this console is read-only",
            hint="leave --read-only (AIRBOSS_READ_ONLY) out",
            code="read_only",
        )
    try:
        return _act(request, context)
    except Unreachable as error:
        if request.verb != "rollback":
            raise
        raise _pointing_to_emergency(request, error) from error


def _act(request: VerbRequest, context: Context) -> Outcome:
    request = with_env(request, context)
    condition = _condition(request, context)
    if request.dry_run:
        result = context.client.verb(request, COPYING_S if request.verb in COPIES else VERB_TIMEOUT_S)
        changes = bool(result.plan and result.plan.lines)
        is_counted = context.options.detailed_exitcode and changes
        return _outcome(
            result,
            (Text(f"{result.ref}: {result.message}"), *plan_blocks(result)),
            exit=ExitCode.CHANGES if is_counted else ExitCode.OK,
        )
    request = _at_revision(confirmed(request, context, lambda: _show_plan(request, context)), context)
    result = context.client.verb(request, COPYING_S if request.verb in COPIES else VERB_TIMEOUT_S)
    if result.replayed:
        diagnostics.note(f"asked before under the key {request.idempotency_key!r}; not done again")
    done = _outcome(result, (Text(_sentence(result)),))
    if condition is None:
        return done
    return _waited(done, result, condition, context)


def _at_revision(request: VerbRequest, context: Context) -> VerbRequest:
    """`promote` means the step after this one: two that are sent at once must not make two of it."""
    if request.verb != "rollout.promote" or request.expect_revision is not None:
        return request
    view = context.get(f"/v1/rollouts/{name_of(request.ref)}")
    return request.model_copy(update={"expect_revision": view["revision"]})


def with_env(request: VerbRequest, context: Context) -> VerbRequest:
    """Fill in the environment where there is only one that can be meant. Raises UsageError naming them otherwise."""
    if request.verb not in TAKES_ENV or request.args.get("env"):
        return request
    if request.ref.startswith("rollout/"):
        if request.verb == "rollback":
            return request
        view = context.get(f"/v1/rollouts/{name_of(request.ref)}")
        return _in_env(request.model_copy(update={"ref": f"service/{view['service']}"}), view["env"])
    rows = [row for row in context.get("/v1/fleet") if row["service"] == name_of(request.ref)]
    if request.verb == "rollback":
        # Only where something is live can it be rolled back.
        rows = [row for row in rows if row.get("release_id")] or rows
        envs = sorted({row["env"] for row in rows})
    else:
        envs = sorted({row["env"] for row in rows} if context.engine_url else context.config.environment)
    if len(envs) == 1:
        return _in_env(request, envs[0])
    if not envs:
        return request
    raise UsageError(
        f"{name_of(request.ref)} has several environments: {', '.join(envs)}", hint="add --env ENV", code="env"
    )


def _in_env(request: VerbRequest, env: str) -> VerbRequest:
    return request.model_copy(update={"args": {**request.args, "env": env}})


def _condition(request: VerbRequest, context: Context) -> Condition | None:
    """What --wait waits for, checked before anything is done."""
    if not context.options.wait or request.dry_run:
        return None
    kind = "run" if request.verb in ("pipeline.run", "run.retry", "run.cancel") else "rollout"
    if request.verb not in (*GOES_BACK, "deploy", "pipeline.run") and not request.verb.startswith(("rollout.", "run.")):
        raise UsageError(f"{request.verb} is done at once; there is nothing to wait for", hint="leave --wait out")
    text = context.options.wait
    if text == GOOD_END:
        text = {"rollout.pause": "paused", "run.cancel": "ended"}.get(request.verb, GOOD_END)
    return Condition.parse(text, kind, goes_back=request.verb in GOES_BACK and text == GOOD_END)


def _waited(done: Outcome, result: VerbResult, condition: Condition, context: Context) -> Outcome:
    from dataclasses import replace

    from console.commands.waiting import wait_for

    if not result.ref.startswith(f"{condition.kind}/"):
        # Unchanged: it is so already, there is nothing that moves.
        return done
    diagnostics.note(_sentence(result))
    end = wait_for(context.get, result.ref, condition, context.options.timeout_s)
    item = {**result.model_dump(mode="json"), "object": end.item}
    blocks = (*done.blocks, Text(f"{result.ref}: {end.item.get('state', 'unknown')}"))
    return replace(
        done, items=[item], blocks=blocks, error=end.error, exit=end.error.exit if end.error else ExitCode.OK
    )


def _outcome(result: VerbResult, blocks: tuple[Block, ...], exit: ExitCode = ExitCode.OK) -> Outcome:
    return Outcome(
        "VerbResult", [result.model_dump(mode="json")], blocks=blocks, names=(result.ref,), ref=result.ref, exit=exit
    )


def _sentence(result: VerbResult) -> str:
    said = result.message or result.verb
    if not (result.changed or said.startswith("unchanged")):
        said = f"unchanged: {said}"
    return said if said.startswith(f"{name_of(result.ref)}:") else f"{result.ref}: {said}"


def _show_plan(request: VerbRequest, context: Context) -> int | None:
    """The plan on stderr, before the question; the revision it is the plan of."""
    import sys

    result = context.client.verb(request.model_copy(update={"dry_run": True}))
    Output("table", sys.stderr).show(
        Outcome("Plan", [], blocks=(Text(f"{result.ref}: {result.message}"), *plan_blocks(result)))
    )
    return result.revision


def plan_blocks(result: VerbResult) -> tuple[Block, ...]:
    """A plan, for people."""
    if result.plan is None:
        return ()
    plan = result.plan
    blocks: list[Block] = [
        Table(
            ("OBJECT", "FIELD", "BEFORE", "AFTER"),
            [(ln.object, ln.field, ln.before or NONE, ln.after) for ln in plan.lines],
            empty="nothing would change",
        )
    ]
    blocks += [Text(f"note: {warning}") for warning in plan.warnings]
    if plan.expected_s is not None:
        blocks.append(Text(f"takes about {span(plan.expected_s)}"))
    return tuple(blocks)


def _pointing_to_emergency(request: VerbRequest, error: Unreachable) -> AirbossError:
    service = name_of(request.ref) if request.ref.startswith("service/") else "SERVICE"
    env = request.args.get("env")
    where = f" --env {env}" if env else ""
    return Unreachable(
        f"{error.message}; nothing was rolled back",
        hint=f"`airboss rollback {service}{where} --emergency` rolls back through the gateway without the engine; "
        "`airboss up -d` starts the engine",
        code=error.code,
    )
