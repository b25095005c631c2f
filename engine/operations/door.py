"""The one door for verbs: every front's request comes here, whatever its noun."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.operations import drilling
from engine.operations.approving import glass_ack
from engine.operations.dataset_building import dataset_build
from engine.operations.deploying import deploy
from engine.operations.desk import Desk
from engine.operations.governing import config_apply
from engine.operations.hooking import hook_redeliver, hook_test
from engine.operations.importing import registry_import, release_import
from engine.operations.keeping import alert_verb, down, lease_verb, note, pipeline_run, run_verb
from engine.operations.moving import rollback, rollout_verb
from engine.operations.registering import stage
from engine.operations.replicas import restart
from engine.operations.scaling import scale
from engine.operations.settling import settle
from engine.operations.triggering import trigger_verb
from engine.verbs import VERBS
from state.store import impatient_until
from state.words import UsageError

PATIENCE_S = 8.0
"""So long a verb stands behind other writes while the store takes none: a client does not wait for much more."""
Handler = Callable[[Desk, VerbRequest, Actor], Awaitable[VerbResult]]


async def do(desk: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Check and carry out one verb. Raises AirbossError with the exit code a script will have."""
    handler = HANDLERS.get(request.verb)
    if handler is None:
        raise UsageError(f"there is no verb {request.verb!r}", hint="`airboss help verbs` lists them", code="no_verb")
    impatient_until.set(time.monotonic() + PATIENCE_S)
    if request.dry_run or not request.idempotency_key:
        return await handler(desk, request, actor)
    return await desk.once.do(desk.store, request, actor, lambda: handler(desk, request, actor))


HANDLERS: dict[str, Handler] = {
    **{name: rollout_verb for name in VERBS if name.startswith("rollout.")},
    "deploy": deploy,
    "rollback": rollback,
    "release.stage": stage,
    "release.import": release_import,
    "registry.import": registry_import,
    "hold": lease_verb("hold", True),
    "unhold": lease_verb("hold", False),
    "freeze.start": lease_verb("freeze", True),
    "freeze.end": lease_verb("freeze", False),
    "glass.ack": glass_ack,
    "hook.test": hook_test,
    "hook.redeliver": hook_redeliver,
    "config.apply": config_apply,
    "pipeline.run": pipeline_run,
    "dataset.build": dataset_build,
    "trigger.pause": trigger_verb,
    "trigger.resume": trigger_verb,
    "trigger.approve": trigger_verb,
    "run.cancel": run_verb,
    "run.retry": run_verb,
    "alert.ack": alert_verb,
    "alert.silence": alert_verb,
    "alert.unsilence": alert_verb,
    "note": note,
    "service.restart": restart,
    "service.scale": scale,
    "service.scale_down": scale,
    "drill.start": drilling.start,
    "drill.finish": drilling.finish,
    "state.adopt": settle,
    "state.enforce": settle,
    "engine.down": down,
    "engine.drain": down,
}
