"""Aliases that another hand moved in the registry: found by looking, raised as an alert, written down, and not fought.

What they should be is folded from the moves that were carried out; MLflow keeps neither an author nor a history of an alias.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlmodel import Session, col, select

from adapters.ports import Registry
from engine.observe.conditions import DriftFact
from state import audit, ids
from state.models import Intent, Release
from state.store import Store
from state.words import IntentState, OperationFailed

KEY = "registry/drifts"
WATCHER = "system:registry-watch"
_GONE = ("rejected", "withdrawn", "champion", "version")
"""Where a move's outcome names the version that is no challenger after it; "version" is that of a stage set by hand."""
Through = Callable[[Callable[[], Any]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Left:
    """What our moves up to the intent `upto` have left: model → alias → version. None of them can change any more."""

    upto: int = 0
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def left_at(moves: Iterable[tuple[str, Mapping[str, Any]]], before: Mapping[str, str] | None = None) -> dict[str, str]:
    """alias → version as our moves of one model left them, (move, outcome) oldest first, after `before`. Pure."""
    ours = dict(before or {})
    for move, outcome in moves:
        if move == "challenger" and "challenger" in outcome:
            ours["challenger"] = str(outcome["challenger"])
            continue
        gone = next((outcome[key] for key in _GONE if outcome.get(key)), None)
        if ours.get("challenger") == gone:
            ours.pop("challenger", None)
        for alias in ("champion", "previous-champion"):
            if outcome.get(alias):
                ours[alias] = str(outcome[alias])
    return ours


class AliasWatch:
    """Looks at the aliases that we set. `is_awake`: the registry runs anyway; an embedded one is not woken for this."""

    def __init__(
        self,
        store: Store,
        registry: Callable[[], Awaitable[Registry]],
        through: Through,
        is_awake: Callable[[], bool],
        on_change: Callable[[str, str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._registry, self._through = store, registry, through
        self._is_awake, self._on_change, self._clock = is_awake, on_change, clock
        self._looked_at: dict[str, float] = {}
        self._left = Left()
        self.drifts: tuple[DriftFact, ...] = ()
        """What differs now, as the newest look found it."""

    async def turn(self) -> None:
        """Look once at every model. Raises Unreachable: then nothing is known, and the earlier drifts stand."""
        wanted = await self._wanted() if self._is_awake() else {}
        if not wanted:
            return
        known: dict[str, dict[str, Any]] = json.loads(await self._store.read(lambda s: ids.get(s, KEY, "{}")))
        found: dict[str, DriftFact] = {}
        for model, ours in wanted.items():
            for drift in await self._look(model, ours):
                before = known.get(f"{drift.model}/{drift.alias}")
                is_same = before is not None and before["found"] == drift.found
                found[f"{drift.model}/{drift.alias}"] = DriftFact(**before) if before and is_same else drift
        self.drifts = tuple(found.values())
        after = {key: asdict(drift) for key, drift in found.items()}
        if after != known:
            new = [drift for key, drift in found.items() if known.get(key) != after[key]]
            await self._store.write(lambda s: _record(s, after, new))
            for drift in new:
                self._on_change(f"model/{drift.model}", drift.says())

    async def _wanted(self) -> dict[str, dict[str, str]]:
        self._left, wanted = await self._store.read(lambda s: wanted_after(s, self._left))
        return wanted

    async def _look(self, model: str, ours: Mapping[str, str]) -> list[DriftFact]:
        registry = await self._registry()
        try:
            there: Mapping[str, str] = await self._through(lambda: _aliases(registry, model))
            moved = {alias: version for alias, version in ours.items() if there.get(alias, "") != version}
            now, before = self._clock(), self._looked_at.get(model)
            self._looked_at[model] = now
            # A move of our own that was made between the two readings is nobody else's.
            if not moved or (await self._wanted()).get(model) != ours:
                return []
            made = {alias: await self._maker(registry, model, there.get(alias, "")) for alias in moved}
            return [
                DriftFact(model, alias, version, there.get(alias, ""), before, now, made[alias])
                for alias, version in moved.items()
            ]
        finally:
            registry.close()

    async def _maker(self, registry: Registry, model: str, version: str) -> str:
        """Who made the version that the alias points at now, where that is written; "" where not."""
        if not version:
            return ""
        try:
            tags = (await self._through(lambda: registry.version(model, version))).tags
        except OperationFailed:
            return ""
        return str(tags.get("airboss.created_by", ""))


def _aliases(registry: Registry, model: str) -> Mapping[str, str]:
    try:
        return registry.aliases(model)
    except OperationFailed as error:
        if error.code != "not_found":
            raise
        return {}  # the model is gone, and all aliases with it


def wanted_after(session: Session, before: Left) -> tuple[Left, dict[str, dict[str, str]]]:
    """Model → alias → version as we left them, read on from `before`; and what need not be read again.

    A model with moves still to be made is left out.
    """
    query = select(Intent).where(col(Intent.id) > before.upto, Intent.kind == "registry").order_by(col(Intent.id))
    rows = list(session.exec(query))
    named = {row.payload.get("release_id", "") for row in rows}
    releases = session.exec(select(Release).where(col(Release.id).in_(named))) if named else ()
    models = {release.id: release.model_name for release in releases if release.model_version}
    moves: defaultdict[str, list[tuple[str, Mapping[str, Any]]]] = defaultdict(list)
    busy, settled, is_open = set(), before, False
    for row in rows:
        model = models.get(row.payload.get("release_id", ""))
        if row.state == IntentState.PENDING:
            if not is_open:
                settled, is_open = Left(_before(row), _folded(before, moves)), True
            if model is not None and "retry_at" not in row.outcome:
                busy.add(model)
        elif model is not None and row.state == IntentState.DONE and "skipped" not in row.outcome:
            moves[model].append((row.payload["move"], row.outcome))
    ours = _folded(before, moves)
    if rows and not is_open:
        settled = Left(rows[-1].id or 0, ours)
    return settled, {model: left for model, left in ours.items() if left and model not in busy}


def _before(row: Intent) -> int:
    return (row.id or 1) - 1


def _folded(before: Left, moves: Mapping[str, list[tuple[str, Mapping[str, Any]]]]) -> dict[str, dict[str, str]]:
    models = {*before.aliases, *moves}
    return {model: left_at(moves.get(model, ()), before.aliases.get(model)) for model in models}


def _record(session: Session, after: Mapping[str, Any], new: list[DriftFact]) -> None:
    ids.put(session, KEY, json.dumps(after, sort_keys=True))
    for drift in new:
        audit.append(session, actor=WATCHER, action="registry.external_alias_change", ref=f"model:{drift.model}",
                     reason=drift.says(), detail=asdict(drift))  # fmt: skip
