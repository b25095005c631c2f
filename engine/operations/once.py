"""A verb under an idempotency key: asked again, it is answered as before and not done again.

The key is claimed before the work and the answer kept after it. What the work writes is marked in the claim in the same
transaction, so that after a death in the middle it is known whether anything was done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, delete, select

from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.verbs import BACK
from state import audit
from state.kept_answers import KeptAnswer
from state.models import Audit
from state.store import Store, beside
from state.words import AirbossError, Conflict, OperationFailed, TimedOut, UsageError, error_from_dict

KEEP_S = 7 * 24 * 3600.0
"""How long an answer is kept; after that its key is a new one."""
JOIN_S = 20.0
"""How long who asks again waits for the first to be answered."""
LONGEST_KEY = 200
_NOTHING_DONE = ("rollout.refused",)
"""Audit rows of the asker's that change nothing."""
_ONLY_BEGUN = ("glass.break", "service.restart")
"""Audit rows after which the verb still has something to do that no record tells of."""
_MAKES = ("deploy", "rollback", "rollout.retry", "pipeline.run", "release.import", "registry.import")
"""Verbs whose answer names what they made or moved."""

log = logging.getLogger("airboss.once")


@dataclass(frozen=True, slots=True)
class _Going:
    digest: str
    task: asyncio.Task[VerbResult]


class Once:
    """The verbs at work under a key in this engine. What is at work and not here died with an engine before."""

    def __init__(self) -> None:
        self._going: dict[tuple[str, str], _Going] = {}

    async def do(
        self, store: Store, request: VerbRequest, actor: Actor, work: Callable[[], Awaitable[VerbResult]]
    ) -> VerbResult:
        """Do `work` unless it was done under the request's key by the same actor; then say what was said.

        Raises Conflict when the key was used for another request, or when nobody can know whether the work was done;
        TimedOut when it is still at work; and what `work` raises. A refusal that changed nothing leaves the key free.
        """
        name, digest = (actor.name, _checked(request.idempotency_key)), digest_of(request)
        going = self._going.get(name)
        if going is None:
            # A task of its own: who hangs up does not stop what is being done and must be kept.
            task = asyncio.create_task(self._run(store, request, actor, digest, work))
            self._going[name] = _Going(digest, task)
            task.add_done_callback(lambda _: self._going.pop(name, None))
            return await asyncio.shield(task)
        if going.digest != digest:
            raise _used_for_another(request.idempotency_key, "another request, which is at work")
        await asyncio.wait({going.task}, timeout=JOIN_S)
        if not going.task.done():
            raise TimedOut(
                f"{request.verb} under the key {request.idempotency_key!r} is still at work",
                hint="ask again with the same key: it is not done twice",
                code="still_at_work",
            )
        return _again(going.task.result())

    async def _run(
        self,
        store: Store,
        request: VerbRequest,
        actor: Actor,
        digest: str,
        work: Callable[[], Awaitable[VerbResult]],
    ) -> VerbResult:
        urgent, name = request.verb in BACK, (actor.name, request.idempotency_key)
        kept = await store.write(lambda s: _claim(s, request, actor, digest, time.time()), urgent=urgent)
        if kept is not None:
            return _again(kept)
        try:
            with _marked(name):
                result = await work()
        except Exception as error:
            said = error if isinstance(error, AirbossError) else _unexpected(error)
            await _keep(store, name, said.as_dict(), is_error=True, urgent=urgent)
            raise
        await _keep(store, name, result.model_dump(mode="json"), is_error=False, urgent=urgent)
        return result


class _Mark:
    """Writes into the claim which audit row the work wrote last. Tasks that the work leaves behind mark nothing."""

    def __init__(self, name: tuple[str, str]) -> None:
        self.name = name
        self.is_over = False

    def __call__(self, session: Session) -> None:
        if self.is_over or (before := session.info.get(audit.PREV_KEY)) is None:
            return
        for row in session.exec(select(Audit).order_by(col(Audit.id).desc()).limit(50)):
            if row.hash == before:
                return
            if row.actor == self.name[0] and row.action not in _NOTHING_DONE:
                claim = session.get_one(KeptAnswer, self.name)
                claim.audit_id = row.id
                session.add(claim)
                return


@contextmanager
def _marked(name: tuple[str, str]) -> Iterator[None]:
    mark = _Mark(name)
    token = beside.set(mark)
    try:
        yield
    finally:
        mark.is_over = True
        beside.reset(token)


def digest_of(request: VerbRequest) -> str:
    """sha256 of what is asked for: not of how it was confirmed, nor of the revision that a console looked up before."""
    args: dict[str, Any] = dict(request.args)
    if args.get("until"):
        # The same moment is fewer seconds away when it is named again.
        args.pop("until_s", None)
    asked = [request.verb, request.ref, args, request.reason, request.break_glass]
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def _checked(key: str) -> str:
    if len(key) > LONGEST_KEY or not key.isprintable() or key != key.strip():
        raise UsageError(
            f"an idempotency key is at most {LONGEST_KEY} printable characters",
            hint="for example the id of the CI job",
            code="idempotency_key",
        )
    return key


def _claim(session: Session, request: VerbRequest, actor: Actor, digest: str, now: float) -> VerbResult | None:
    """Take the key, or return what was answered. Raises what was raised, and Conflict."""
    session.exec(delete(KeptAnswer).where(col(KeptAnswer.expires_at) <= now))
    row = session.get(KeptAnswer, (actor.name, request.idempotency_key))
    if row is None:
        row = KeptAnswer(
            actor=actor.name, key=request.idempotency_key, verb=request.verb, ref=request.ref, digest=digest,
            claimed_at=now, expires_at=now + KEEP_S,
        )  # fmt: skip
    elif row.digest != digest:
        raise _used_for_another(row.key, f"{row.verb} {row.ref}")
    elif row.answer and row.is_error:
        raise error_from_dict(row.answer)
    elif row.answer:
        return VerbResult.model_validate(row.answer)
    elif row.audit_id is not None:
        return _found_done(session, row)
    # New; or the engine died before anything of it was written, and then it is done now.
    row.claimed_at, row.expires_at = now, now + KEEP_S
    session.add(row)
    return None


def _found_done(session: Session, row: KeptAnswer) -> VerbResult:
    """The answer to what an engine did before it died and could not answer. Raises Conflict when that cannot be known."""
    told = session.get_one(Audit, row.audit_id)
    if told.action in _ONLY_BEGUN:
        raise Conflict(
            f"the engine died while it did {row.verb} under the key {row.key!r}: it was begun (audit row {told.id}, "
            f"{told.action} {told.ref}), and whether it was done is not known",
            hint="look at it, then ask under a new key if it is still wanted",
            code="idempotency_unknown",
        )
    return VerbResult(
        verb=row.verb, ref=told.ref.replace(":", "/", 1) if row.verb in _MAKES else row.ref, changed=True, replayed=True,
        message=f"it was done (audit row {told.id}: {told.action} {told.ref}); the engine died before it could answer",
    )  # fmt: skip


async def _keep(store: Store, name: tuple[str, str], answer: dict[str, Any], *, is_error: bool, urgent: bool) -> None:
    def write(session: Session) -> None:
        row = session.get(KeptAnswer, name)
        if row is None:
            return
        if is_error and row.audit_id is None:
            session.delete(row)
            return
        row.answer, row.is_error, row.expires_at = answer, is_error, time.time() + KEEP_S
        session.add(row)

    try:
        await store.write(write, urgent=urgent)
    except AirbossError as error:
        # The work is done and its mark is kept: asked again, the answer is made from that.
        log.error("the answer under the key %r could not be kept: %s", name[1], error)


def _again(result: VerbResult) -> VerbResult:
    return result.model_copy(update={"replayed": True})


def _used_for_another(key: str, what: str) -> Conflict:
    return Conflict(
        f"the key {key!r} was used for {what}",
        hint="a key is for one request: take another for this one",
        code="idempotency_key",
    )


def _unexpected(error: Exception) -> AirbossError:
    return OperationFailed(
        f"the engine met an error it did not expect: {type(error).__name__}: {error}", code="internal"
    )
