"""Watches the triggers of a workspace and starts what they ask for. It holds no truth: a new one over the same store goes on."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, func, select

from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.context import run_context
from engine.pipelines.fingerprint import Marks, data_marks, source_digest
from engine.pipelines.runner import PipelineRunner
from engine.pipelines.triggers.decide import Fire, Memory, Seen, decide, first_sight, next_slot
from state import audit, ids
from state.config import Config
from state.digests import canonical_json, text_sha256
from state.models import Alert, Run
from state.pipeline_config import TriggerConfig
from state.store import Store
from state.words import AirbossError, RunState, UsageError

log = logging.getLogger(__name__)
LOOK_S = 5.0


@dataclass(slots=True)
class _Data:
    """The last look at a trigger's files. `since` is when they were first seen as they are; `trouble` why they cannot be read."""

    marks: Marks
    since: float
    digest: str = ""
    trouble: str = ""


class Triggers:
    """One `turn` looks at every trigger once."""

    def __init__(
        self,
        store: Store,
        config: Config,
        runner: PipelineRunner,
        workspace: Path,
        clock: Callable[[], float] = time.time,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        """Nothing fires while `is_held`: after a restore, until somebody has said what holds."""
        self._store = store
        self._config = config
        self._runner = runner
        self._workspace = workspace
        self._clock = clock
        self._is_held = is_held
        self._data: dict[str, _Data] = {}

    async def turn(self) -> None:
        """Fire what is due. A trigger in trouble does not keep the others from it."""
        if self._is_held():
            return
        for name, (pipeline, trigger) in triggers_of(self._config).items():
            try:
                await self._look(name, pipeline, trigger)
            except AirbossError as trouble:
                log.warning("trigger %s: %s", name, trouble.message)

    async def _look(self, name: str, pipeline: str, trigger: TriggerConfig) -> None:
        now = self._clock()
        data = await asyncio.to_thread(self._settled, name, trigger, now) if trigger.data else ""
        kept, seen = await self._store.read(lambda s: (recall(s, name), _seen(s, name, trigger, now, data)))
        if kept is None:
            await self._store.write(lambda s: remember(s, name, first_sight(seen)))
            return
        decided = decide(trigger, kept, seen)
        if isinstance(decided, Memory):
            await self._store.write(lambda s: remember(s, name, decided))
        elif decided is not None:
            await self._fire(name, pipeline, trigger, decided)

    async def _fire(self, name: str, pipeline: str, trigger: TriggerConfig, fire: Fire) -> None:
        """Start the run; its row and the trigger's memory are one transaction, so that a kill repeats and loses neither."""

        def also(session: Session, run_id: str) -> None:
            paused = (recall(session, name) or fire.memory).paused_by
            remember(session, name, replace(fire.memory, run=run_id, paused_by=paused))

        try:
            made, service = await asyncio.to_thread(pipeline_of, self._config, pipeline, self._workspace)
            context = await self._store.read(lambda s: run_context(s, service, self._workspace))
            run_id = await self._runner.start(
                made,
                overrides=dict(trigger.params),
                actor=f"trigger:{name}",
                reason=fire.why,
                context=context,
                also=also,
            )
            log.info("trigger %s started %s: %s", name, run_id, fire.why)
        except UsageError as refused:
            said = refused.message
            log.warning("trigger %s could not start %s: %s", name, pipeline, said)
            await self._store.write(lambda s: _refuse(s, name, replace(fire.memory, refused=said), fire.why))

    def _settled(self, name: str, trigger: TriggerConfig, now: float) -> str:
        """The sha256 of the files' manifest once they have stood still for `settle`; "" until then, or when they cannot be read."""
        try:
            marks = data_marks(trigger.data, self._workspace)
        except OSError as error:
            marks, trouble = {}, f"{error.filename}: {error.strerror}"
        else:
            trouble = ""
        last = self._data.get(name)
        if last is None or last.marks != marks or trouble:
            self._data[name] = _Data(marks, now, trouble=trouble)
            last = self._data[name]
        if not last.digest and not last.trouble and now >= last.since + trigger.settle:
            try:
                last.digest = manifest_digest(trigger.data, self._workspace)
            except UsageError as error:
                last.trouble = error.message
            if data_marks(trigger.data, self._workspace) != marks:
                last.digest = ""  # it changed while it was read
        return last.digest

    def views(self, session: Session) -> list[dict[str, Any]]:
        """Every trigger as the console shows it."""
        now = self._clock()
        return [self._view(session, name, *found, now) for name, found in triggers_of(self._config).items()]

    def _view(self, session: Session, name: str, pipeline: str, trigger: TriggerConfig, now: float) -> dict[str, Any]:
        kept = recall(session, name) or Memory()
        data = self._data.get(name)
        trouble = kept.refused or (data.trouble if data else "")
        when = f"cron {trigger.cron} {trigger.timezone}" if trigger.cron else f"alert {trigger.alert}"
        return {
            "name": name,
            "pipeline": pipeline,
            "when": f"data {', '.join(trigger.data)}" if trigger.data else when,
            "state": "paused" if kept.paused_by else "trouble" if trouble else "proposes" if kept.proposed else "armed",
            "proposed": kept.proposed,
            "paused_by": kept.paused_by,
            "trouble": trouble,
            "next_at": next_slot(trigger, now) if trigger.cron and not kept.paused_by else None,
            "last_run": kept.run,
            "last_at": kept.fired_at or None,
            "cooldown_s": trigger.cooldown,
        }


def triggers_of(config: Config) -> Mapping[str, tuple[str, TriggerConfig]]:
    """`PIPELINE.TRIGGER` → (pipeline, trigger) of the workspace."""
    return {
        f"{pipeline}.{name}": (pipeline, trigger)
        for pipeline, settings in config.pipeline.items()
        for name, trigger in settings.trigger.items()
    }


def manifest_digest(paths: tuple[str, ...], workspace: Path) -> str:
    """The sha256 of the list of paths with the sha256 of each. Raises UsageError for one that is not there."""
    return text_sha256(canonical_json({path: source_digest(path, workspace) for path in paths}))


def recall(session: Session, name: str) -> Memory | None:
    """What is kept of the trigger; None before it was first seen."""
    text = ids.get(session, _key(name))
    return Memory.from_json(json.loads(text)) if text else None


def remember(session: Session, name: str, memory: Memory) -> None:
    """Keep it."""
    ids.put(session, _key(name), canonical_json(memory.to_json()))


def set_paused(session: Session, name: str, by: str) -> bool:
    """Pause the trigger (`by` somebody), or let it go on (""): whether that changed anything."""
    kept = recall(session, name) or Memory(slot=time.time())
    if bool(kept.paused_by) == bool(by):
        return False
    remember(session, name, replace(kept, paused_by=by))
    return True


def approve(session: Session, name: str, by: str) -> str:
    """Let the run that the trigger proposes start; returns why it is proposed, "" when nothing is."""
    kept = recall(session, name)
    if kept is None or not kept.proposed:
        return ""
    remember(session, name, replace(kept, approved_by=by))
    return kept.proposed


def _refuse(session: Session, name: str, memory: Memory, why: str) -> None:
    remember(session, name, memory)
    audit.append(
        session,
        actor=f"trigger:{name}",
        action="trigger.refused",
        ref=f"trigger:{name}",
        reason=memory.refused,
        detail={"why": why},
    )


def _seen(session: Session, name: str, trigger: TriggerConfig, now: float, data: str) -> Seen:
    alert, says = 0, ""
    if trigger.alert is not None:
        alert = session.exec(select(func.max(Alert.id)).where(Alert.name == trigger.alert)).one() or 0
        row = session.get(Alert, alert) if alert else None
        says = row.summary if row is not None else ""
    running = select(Run.id).where(
        Run.created_by == f"trigger:{name}", col(Run.state).in_([s.value for s in RunState if not s.is_over])
    )
    return Seen(now, data, alert, session.exec(running.limit(1)).first() is not None, says)


def _key(name: str) -> str:
    return f"trigger.{name}"
