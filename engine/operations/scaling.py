"""`service scale`: a hand sets how many replicas a service has in an environment, for a while or until it is taken back.

The number is a row that the world follows as it follows the file's: here, in a cluster, and after the engine was killed.
"""

from __future__ import annotations

import asyncio
import time

from sqlmodel import Session

from adapters.local.machine import room_for
from engine.access import Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, known_env, noun, positive
from engine.rollouts.back.reading import measured_start_s
from engine.rollouts.back.warm import REPLACING
from engine.rollouts.planning import active_rollout, check_names, stable_release
from engine.rollouts.wanted import ByHand, by_hand, set_by_hand, unhanded, wanted_replicas
from state import audit
from state.config import Config
from state.words import Conflict, UsageError

AUTO = "auto"
"""In place of a number: what the file or its autoscaler says."""
MOST = 64
LONGEST_S = 366 * 24 * 3600.0


async def scale(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Have `replicas` (1 to 64, or "auto") of what the service serves, for `for_s` seconds where that is said.

    Fewer than there are only as `service.scale_down`; none while a rollout counts on them (I13). Raises Conflict for both, and
    where memory has no room (without `force`).
    """
    service = noun(request, "service")
    env = known_env(ops.config, env_of(ops.config, request))
    check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    asked = _asked(request.args.get("replicas"))
    lasts_s = positive(request, "for_s", LONGEST_S) if request.args.get("for_s") is not None else None
    if asked is None and lasts_s is not None:
        raise UsageError("what the file says needs no end", hint="leave --for out", code="for")
    before = await ops.store.read(lambda s: wanted_replicas(s, ops.config, service, env))
    target = await ops.store.read(lambda s: unhanded(s, ops.config, service, env)) if asked is None else asked
    said = f"{service} in {env}: {before} → {target} replicas"
    refused = await ops.store.read(lambda s: _forbidden(s, service, env, before, target))
    if refused is not None:
        raise refused
    warnings = await ops.store.read(lambda s: _notes(s, ops.config, service, env, asked))
    lacking = await _lacking(ops, service, env, target - before)
    if lacking:
        if not request.args.get("force") and not request.dry_run:
            raise Conflict(f"{said}: {lacking}", hint="--force starts them all the same", code="no_room")
        warnings = (lacking, *warnings)
    if request.dry_run:
        ends = "" if lasts_s is None else f", for {lasts_s:.0f} s"
        lines = (PlanLine(object=f"{service} in {env}", field="replicas", before=str(before), after=f"{target}{ends}"),)
        start_s = await ops.store.read(lambda s: _start_s(s, service, env)) if target > before else None
        plan = PlanView(
            verb=request.verb, ref=request.ref, lines=lines if target != before else (), warnings=warnings, expected_s=start_s
        )  # fmt: skip
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would scale: {said}", plan=plan)
    if target < before and request.verb != "service.scale_down":
        raise Conflict(
            f"{said} takes {before - target} away", hint=f"add --down (and --confirm-name {service})", code="fewer"
        )
    at = time.time()
    until = 0.0 if asked is None else None if lasts_s is None else at + lasts_s
    hand = ByHand(target, actor.name, request.reason, at, until)
    detail = {
        "env": env,
        "from": before,
        "to": target,
        "until": None if asked is None else until,
        "auto": asked is None,
    }

    def write(session: Session) -> bool:
        was = by_hand(session, service, env)
        if (asked is None and was is None) or (was is not None and (was.replicas, was.until) == (target, until)):
            return False
        again = _forbidden(session, service, env, wanted_replicas(session, ops.config, service, env), target)
        if again is not None:
            raise again
        set_by_hand(session, service, env, hand)
        audit.append(
            session, actor=actor.name, action=request.verb, ref=f"service:{service}", reason=request.reason, detail=detail
        )  # fmt: skip
        return True

    changed = await ops.store.write(write)
    if changed:
        ops.on_change(request.ref, said)
    message = said if changed else f"unchanged: {service} in {env} has {before}"
    return VerbResult(verb=request.verb, ref=request.ref, changed=changed, message=message)


def _asked(given: object) -> int | None:
    """The number that is asked for; None for `auto`. Raises UsageError for anything else."""
    if given == AUTO:
        return None
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= MOST:
        return given
    raise UsageError(
        f"replicas is a number from 1 to {MOST}, or {AUTO}: not {given!r}",
        hint="nothing at all is `airboss down --all`",
        code="replicas",
    )


def _forbidden(session: Session, service: str, env: str, before: int, target: int) -> Conflict | None:
    """Why the number may not be had now."""
    active = active_rollout(session, service, env)
    if stable_release(session, service, env) is None and active is None:
        return Conflict(f"{service} serves nothing in {env}", hint="`airboss deploy` begins", code="nothing_live")
    if active is None or target == before:
        return None
    if active.strategy in REPLACING:
        said = f"{active.id} puts replicas in each other's place ({active.strategy}) and counts them itself"
        return Conflict(said, hint="wait for its end, or roll it back", code="active_rollout")
    if target < before:
        return Conflict(
            f"{active.id} counts on the {before} replicas there are until it ends: more may be had now, not fewer",
            hint="wait for its end, or roll it back",
            code="active_rollout",
        )
    return None


def _notes(session: Session, config: Config, service: str, env: str, asked: int | None) -> tuple[str, ...]:
    """What to know before a number of one's own holds."""
    if asked is None:
        return ()
    if config.service[service].autoscale is not None:
        return ("the autoscaler stands aside while this number holds; `--replicas auto` gives it back",)
    file = unhanded(session, config, service, env)
    return () if file == asked else (f"airboss.toml says {file}; `--replicas auto` returns to that",)


async def _lacking(ops: Desk, service: str, env: str, more: int) -> str:
    """What this host has no memory for; empty where it has, in a cluster (which decides itself), and where nothing can be measured."""
    if more <= 0 or ops.config.environment[env].cluster is not None:
        return ""
    pids = [r.pid for r in ops.controller.world.runtime.replicas(service, env) if r.is_alive]
    room = await asyncio.to_thread(room_for, pids)
    return "" if room is None or room >= more else f"memory has room for {room} more replica(s), not for {more}"


def _start_s(session: Session, service: str, env: str) -> float | None:
    stable = stable_release(session, service, env)
    return measured_start_s(session, service, env, stable) if stable else None
