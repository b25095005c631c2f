"""The registry's moves of rollouts: queued, in order, repeated until they are done. Traffic never waits for them.

Aliases and tags follow `reference/delivery.md` §E: `challenger` while in canary, `previous-champion` and `champion` at
promotion with a re-read, `airboss.stage` tags instead of the deprecated stages.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlmodel import Session, col, select

from adapters.ports import Registry
from engine.rollouts import effects as fx
from engine.rollouts import journal, records
from state import audit
from state.models import Intent, Release, Rollout
from state.store import Store
from state.words import AirbossError, Conflict, IntentState, Lifecycle

log = logging.getLogger("airboss.registry")
DISPUTED_S = 15.0
"""How long after another hand's alias was seen it is looked at again."""
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class Versions:
    """A release's name and version in the registry, and those of the release beside it."""

    model_name: str
    version: str
    other: str | None
    rollout_id: str
    reason: str


class RegistryQueue:
    """Carries out pending registry intents, oldest first. `registry` starts the worker on first use."""

    def __init__(
        self,
        store: Store,
        registry: Callable[[], Awaitable[Registry]],
        on_change: Callable[[str, str], None],
        through: Callable[[Callable[[], Any]], Awaitable[Any]] = asyncio.to_thread,
    ) -> None:
        self.store = store
        self.registry = registry
        self.on_change = on_change
        self.through = through
        """Makes a blocking call: in threads of the registry's own, behind its guard."""
        self.trouble = ""

    async def run(self) -> None:
        """Work until cancelled."""
        failures = 0
        while True:
            try:
                await self._turn()
                failures, self.trouble = 0, ""
            except AirbossError as error:
                # Also a store that cannot take the outcome (a full disk): the move is made again, and made once.
                failures += 1
                self.trouble = str(error)
            except Exception as error:
                failures += 1
                self.trouble = f"{type(error).__name__}: {error}"
                log.exception("the registry queue met an error it did not expect; it goes on")
            await asyncio.sleep(RETRY_S[min(failures, len(RETRY_S)) - 1] if failures else 0.3)

    async def _turn(self) -> None:
        for intent in await self.store.read(lambda s: journal.pending(s, ("registry",))):
            if intent.retry_at > time.time():
                continue
            try:
                await self._one(intent)
            except AirbossError as error:
                log.warning("registry: %s: %s", intent.effect.says(), error)
                if error.code == "not_found":
                    # Gone for good: told, left to a person, and no other model's move waits for it.
                    why = str(error)
                    await self.store.write(lambda s, i=intent, w=why: _drift(s, i, w))  # type: ignore[misc]
                    continue
                if isinstance(error, Conflict):
                    # An alias that another hand moved is not overwritten: said, and looked at again later; no move of
                    # another model waits for it.
                    why = str(error)
                    if await self.store.write(lambda s, i=intent, w=why: _disputed(s, i, w)):  # type: ignore[misc]
                        self.on_change(_about(intent, "/"), why)
                    continue
                await self._failed(intent.id, str(error))
                raise

    async def _move(self, effect: fx.RegistryMove, versions: Versions) -> Mapping[str, Any]:
        registry = await self.registry()
        try:
            found: Mapping[str, Any] = await self.through(lambda: _MOVES[effect.move](registry, versions))
            return found
        finally:
            registry.close()

    async def _failed(self, intent_id: int, why: str) -> None:
        await self.store.write(lambda s: journal.close_intent(s, intent_id, {"error": why}, done=False))

    async def _one(self, intent: journal.PendingIntent) -> None:
        effect = intent.effect
        if not isinstance(effect, fx.RegistryMove):
            return
        versions = await self.store.read(lambda s: _versions(s, intent.rollout_id, effect))
        if versions is None:
            await self.store.write(
                lambda s: journal.close_intent(s, intent.id, {"skipped": "not in a registry"}, done=True)
            )
            return
        if await self.store.read(lambda s: _is_taken_back(s, intent, effect)):
            skipped = {"skipped": "the rollout has gone back since"}
            await self.store.write(lambda s: journal.close_intent(s, intent.id, skipped, done=True))
            return
        outcome = await self._move(effect, versions)
        await self.store.write(lambda s: _done(s, intent, effect, outcome))
        self.on_change(_about(intent, "/"), effect.says())


def _about(intent: journal.PendingIntent, between: str) -> str:
    """Whose move it is: a rollout's, or of a release alone when a hand has set its stage."""
    if intent.rollout_id or not isinstance(intent.effect, fx.RegistryMove):
        return f"rollout{between}{intent.rollout_id}"
    return f"release{between}{intent.effect.release_id}"


def _challenger(registry: Registry, v: Versions) -> Mapping[str, Any]:
    registry.tag(v.model_name, v.version, {"airboss.stage": "Staging", "airboss.rollout": v.rollout_id})
    registry.set_alias(v.model_name, "challenger", v.version)
    return {"challenger": v.version}


def _promote(registry: Registry, v: Versions) -> Mapping[str, Any]:
    aliases = registry.aliases(v.model_name)
    champion = aliases.get("champion")
    if champion not in (None, v.other, v.version):
        raise Conflict(
            f"the registry's champion of {v.model_name} is version {champion}, not {v.other}: somebody moved it",
            hint="set the alias right in the registry, then `airboss rollout show` again",
            code="registry_drift",
        )
    registry.tag(v.model_name, v.version, {"airboss.stage": "promoting", "airboss.rollout": v.rollout_id})
    if v.other is not None and v.other != v.version:
        registry.set_alias(v.model_name, "previous-champion", v.other)
    registry.set_alias(v.model_name, "champion", v.version)
    registry.tag(v.model_name, v.version, {"airboss.stage": "Production"})
    if v.other is not None and v.other != v.version:
        registry.tag(v.model_name, v.other, {"airboss.stage": "Archived-warm"})
    if registry.aliases(v.model_name).get("challenger") == v.version:
        registry.drop_alias(v.model_name, "challenger")
    return {"champion": v.version, "previous-champion": v.other}


def _leave(registry: Registry, v: Versions, tags: dict[str, str]) -> str | None:
    """Take the aliases back from the version and tag it; returns the champion then."""
    aliases = registry.aliases(v.model_name)
    if aliases.get("challenger") == v.version:
        registry.drop_alias(v.model_name, "challenger")
    if v.other is not None and aliases.get("champion") in (v.version, v.other):
        # The stage also where the alias is back already: an engine may have been killed between the two.
        if aliases["champion"] == v.version:
            registry.set_alias(v.model_name, "champion", v.other)
        registry.tag(v.model_name, v.other, {"airboss.stage": "Production"})
    registry.tag(v.model_name, v.version, {**tags, "airboss.rollout": v.rollout_id})
    return registry.aliases(v.model_name).get("champion")


def _reject(registry: Registry, v: Versions) -> Mapping[str, Any]:
    champion = _leave(registry, v, {"airboss.stage": "Rejected", "airboss.reject_reason": v.reason[:5000]})
    return {"rejected": v.version, "champion": champion}


def _withdraw(registry: Registry, v: Versions) -> Mapping[str, Any]:
    """Given up for another release, or before any request was meant for it: nothing was found against it."""
    return {"withdrawn": v.version, "champion": _leave(registry, v, {"airboss.stage": "Development"})}


def _stage(registry: Registry, v: Versions, stage: str) -> Mapping[str, Any]:
    """What a hand has said of a release that serves nowhere."""
    if registry.aliases(v.model_name).get("challenger") == v.version:
        registry.drop_alias(v.model_name, "challenger")
    registry.tag(v.model_name, v.version, {"airboss.stage": stage, "airboss.reject_reason": v.reason[:5000]})
    return {"version": v.version, "stage": stage}


_MOVES: dict[str, Callable[[Registry, Versions], Mapping[str, Any]]] = {
    "challenger": _challenger,
    "promote": _promote,
    "reject": _reject,
    "withdraw": _withdraw,
    **{stage.value: partial(_stage, stage=stage.value) for stage in Lifecycle},
}


def _is_taken_back(session: Session, intent: journal.PendingIntent, effect: fx.RegistryMove) -> bool:
    """A later move of the same rollout takes the aliases back: this one, tried again by then, must not give them any more."""
    if effect.move not in ("challenger", "promote"):
        return False
    later = select(Intent.payload).where(
        Intent.rollout_id == intent.rollout_id, Intent.kind == "registry", col(Intent.id) > intent.id
    )
    return any(
        move["release_id"] == effect.release_id and move["move"] in ("reject", "withdraw")
        for move in session.exec(later)
    )


def _versions(session: Session, rollout_id: str, effect: fx.RegistryMove) -> Versions | None:
    release = session.get(Release, effect.release_id)
    other = session.get(Release, effect.other) if effect.other else None
    rollout = session.get(Rollout, rollout_id)
    if release is None or not release.model_version:
        return None
    same_model = other is not None and other.model_name == release.model_name
    return Versions(
        release.model_name,
        release.model_version,
        other.model_version if other is not None and same_model and other.model_version else None,
        rollout_id,
        rollout.message if rollout else release.rejected_reason,
    )


def _done(session: Session, intent: journal.PendingIntent, effect: fx.RegistryMove, outcome: Mapping[str, Any]) -> None:
    journal.close_intent(session, intent.id, outcome, done=True)
    audit.append(session, actor=records.ENGINE, action=f"registry.{effect.move}", ref=f"release:{effect.release_id}",
                 detail={"rollout": intent.rollout_id, **outcome})  # fmt: skip
    _sync_state(session, intent.rollout_id, "")


def _drift(session: Session, intent: journal.PendingIntent, why: str) -> None:
    row = session.get(Intent, intent.id)
    if row is not None:
        row.state, row.outcome = IntentState.FAILED, {"error": why}
        session.add(row)
    audit.append(session, actor=records.ENGINE, action="registry.drift", ref=_about(intent, ":"), reason=why)
    _sync_state(session, intent.rollout_id, why)


def _disputed(session: Session, intent: journal.PendingIntent, why: str) -> bool:
    """Record that the registry says something else than was left there; the move stays pending. Returns whether it is new."""
    row = session.get(Intent, intent.id)
    is_new = row is not None and row.outcome.get("error") != why
    journal.close_intent(session, intent.id, {"error": why, "retry_at": time.time() + DISPUTED_S}, done=False)
    if is_new:
        audit.append(session, actor=records.ENGINE, action="registry.drift", ref=_about(intent, ":"), reason=why)
        _sync_state(session, intent.rollout_id, why)
    return is_new


def _sync_state(session: Session, rollout_id: str, trouble: str) -> None:
    rollout = session.get(Rollout, rollout_id)
    if rollout is None:
        return
    session.flush()
    left = session.exec(
        select(Intent.id).where(
            Intent.rollout_id == rollout_id, Intent.kind == "registry", col(Intent.state) != IntentState.DONE
        )
    ).first()
    rollout.registry_sync = trouble or ("pending" if left is not None else "ok")
    session.add(rollout)
