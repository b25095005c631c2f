"""Verbs on hooks: is it told? and tell it again."""

from __future__ import annotations

import asyncio
import time

from sqlmodel import Session

from engine.access import Actor, demand, demand_everywhere
from engine.api.schemas import VerbRequest, VerbResult
from engine.operations.desk import Desk, noun, row_number
from engine.people.hooks import outbox
from state import audit
from state.models import HookDelivery
from state.words import Conflict, OperationFailed, TimedOut, UsageError

TEST_WAIT_S = 20.0
LOOK_S = 0.05


async def hook_test(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Send a hook a test event through the outbox, as any other, and say whether it was taken."""
    name = noun(request, "hook")
    _demand(ops, name, actor, request.verb)
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would send {name} a test event")
    workspace = ops.config.workspace.get("name", ops.workspace.name)

    def put(session: Session) -> int:
        audit.append(session, actor=actor.name, action=request.verb, ref=f"hook:{name}", reason=request.reason)
        body = outbox.test_body(name, actor.name, workspace)
        return outbox.add(session, name, outbox.TEST, f"hook:{name}", body, time.time())

    number = await ops.store.write(put)
    deadline = time.monotonic() + TEST_WAIT_S
    while time.monotonic() < deadline:
        row = await ops.store.read(lambda s: s.get_one(HookDelivery, number))
        if row.state == outbox.DONE:
            return VerbResult(
                verb=request.verb, ref=request.ref, changed=True, message=f"{name} took {row.delivery_id}"
            )
        if row.state != outbox.PENDING:
            raise OperationFailed(
                f"{name} did not take it: {row.error}", hint="`airboss hook list` shows where it leads"
            )
        await asyncio.sleep(LOOK_S)
    raise TimedOut(
        f"delivery {number} to {name} has not been tried yet: older ones wait before it",
        hint=f"`airboss hook deliveries --hook {name}` says why",
    )


async def hook_redeliver(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Try a delivery that failed, was dropped or waits: now, under the id it had."""
    name = noun(request, "delivery")
    number = row_number(name)
    row = await ops.store.read(lambda s: s.get(HookDelivery, number)) if number is not None else None
    if row is None or number is None:
        raise Conflict(f"there is no delivery {name}", hint="`airboss hook deliveries` shows them", code="no_delivery")
    _demand(ops, row.hook, actor, request.verb)
    if row.state == outbox.DONE:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"unchanged: {row.hook} took it")
    if not request.dry_run:

        def write(session: Session) -> None:
            outbox.again(session, number, time.time())
            audit.append(session, actor=actor.name, action=request.verb, ref=f"delivery:{name}", reason=request.reason)

        await ops.store.write(write)
    return VerbResult(verb=request.verb, ref=request.ref, changed=not request.dry_run,
                      message=f"delivery {name} to {row.hook} is tried again")  # fmt: skip


def _demand(ops: Desk, name: str, actor: Actor, verb: str) -> None:
    hook = ops.config.hook.get(name)
    if hook is None:
        raise UsageError(
            f"there is no hook {name!r}",
            hint=f"airboss.toml has: {', '.join(ops.config.hook) or 'none'}",
            code="no_hook",
        )
    if not hook.environments:
        demand_everywhere(ops.config, actor, verb)
    for env in hook.environments:
        demand(ops.config, env, actor, verb)
