"""The governed tables of airboss.toml: who may what, policies, environments, freezes. They change by an admin's act alone.

What was applied stands in the store. A file that says otherwise is noticed, shown and audited, and holds only once an admin
of every environment it touches has applied it: with `airboss config apply`, or by starting the engine as such an admin.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session

from engine.access import EVERYWHERE, Actor, environments, refusal_of
from state import audit
from state.config import CONFIG_NAME, GOVERNED, Config, load_config
from state.digests import canonical_json
from state.models import KeyValue
from state.store import Store
from state.words import AirbossError, ConfigError

log = logging.getLogger("airboss.config")

APPLIED, NOTICED = "config/applied", "config/noticed"


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that the file has otherwise than what holds, and the environments it concerns (`*`: all)."""

    field: str
    before: str
    after: str
    envs: frozenset[str]


def governed(config: Config) -> dict[str, Any]:
    """The governed tables as plain values: what the file says, without defaults that it leaves out."""
    said = config.model_dump(mode="json", exclude_unset=True)
    return {name: said.get(name, {}) for name in GOVERNED}


def digest_of(tables: Mapping[str, Any]) -> str:
    """sha256 of governed tables."""
    return hashlib.sha256(canonical_json(dict(tables)).encode("utf-8")).hexdigest()


def revision_of(tables: Mapping[str, Any]) -> int:
    """A number that stands for these tables, as a rollout's revision stands for it."""
    return int(digest_of(tables)[:8], 16)


def differences(before: Config, after: Config) -> tuple[Difference, ...]:
    """What the governed tables of `after` have otherwise, field by field."""
    old, new = dict(_leaves(governed(before))), dict(_leaves(governed(after)))
    return tuple(
        Difference(".".join(path), _says(old.get(path)), _says(new.get(path)), _concerns(path, before, after))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    )


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and (value or len(path) > 1):
        if not value:
            yield path, {}
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    elif not isinstance(value, Mapping):
        yield path, value


def _says(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def _concerns(path: tuple[str, ...], before: Config, after: Config) -> frozenset[str]:
    """Whose admin must agree: an environment's own, those that a policy moves, or everybody's."""
    table, name = path[0], path[1] if len(path) > 1 else ""
    if table in ("roles", "environment") and name in before.environment:
        return frozenset({name})
    if table == "policy":
        moved = {e for config in (before, after) for e, env in config.environment.items() if env.policy == name}
        return frozenset(moved & set(before.environment)) or frozenset({EVERYWHERE})
    return frozenset({EVERYWHERE})


def touched(found: tuple[Difference, ...], config: Config) -> tuple[str, ...]:
    """The environments whose admin must agree, in the file's order."""
    envs = {env for one in found for env in one.envs}
    every = environments(config)
    return every if EVERYWHERE in envs else tuple(env for env in every if env in envs)


def record(session: Session, config: Config, found: tuple[Difference, ...], *, actor: str, reason: str) -> None:
    """Write down that these governed tables hold, and by whose act."""
    tables = governed(config)
    session.merge(KeyValue(key=APPLIED, value=json.dumps(tables)))
    audit.append(session, actor=actor, action="config.apply", ref="engine:engine", reason=reason,
                 detail={"digest": digest_of(tables), "changes": [_line(one) for one in found]})  # fmt: skip


def _line(one: Difference) -> str:
    return f"{one.field}: {one.before or 'nothing'} -> {one.after or 'nothing'}"


def applied(session: Session) -> dict[str, Any] | None:
    """The governed tables that were applied last; None in a store that never had any."""
    row = session.get(KeyValue, APPLIED)
    return dict(json.loads(row.value)) if row is not None else None


def at_start(store: Store, file: Config) -> Config:
    """The configuration an engine starts with: the file's, with the governed tables that hold.

    The engine's own user, where it is an admin of all that the file changes, applies it by starting the engine.
    """
    tables = store.read_now(applied)
    if tables is None:
        store.write_now(
            lambda s: record(s, file, (), actor="system:engine", reason="the first start of this workspace")
        )
        return file
    if digest_of(tables) == digest_of(governed(file)):
        return file
    held = with_tables(file, tables)
    found, actor = differences(held, file), Actor.of_uid(os.getuid())
    if not found or all(refusal_of(held, env, actor, "config.apply") is None for env in touched(found, held)):
        said = "the engine was started with it"
        store.write_now(lambda s: record(s, file, found, actor=actor.name, reason=said))
        return file
    log.warning("airboss.toml has %d changes that no admin has applied; what was applied before holds", len(found))
    return held


def with_tables(file: Config, tables: Mapping[str, Any]) -> Config:
    """The file's configuration with other governed tables. Raises ConfigError when they do not fit together."""
    said = file.model_dump(mode="json", exclude_unset=True)
    try:
        return Config.model_validate({**said, **tables})
    except ValueError as error:
        raise ConfigError(
            f"{CONFIG_NAME} does not fit the roles, policies and environments that were applied: {error}",
            hint="put them back as they were (`airboss audit list --ref engine/engine` has each change), then apply both",
        ) from error


class FileWatch:
    """Notices that airboss.toml says something else than what holds, once for each such text."""

    def __init__(self, store: Store, config: Config, root: Path) -> None:
        self._store = store
        self._config = config
        self._root = root
        self._stamp: tuple[int, int] | None = None
        self.said = "as applied"
        """One line for `status`."""

    async def turn(self) -> None:
        """Look at the file if it was written since the last look, or if what holds has changed."""
        try:
            stat = (self._root / CONFIG_NAME).stat()
            stamp = (stat.st_mtime_ns, hash(digest_of(governed(self._config))))
            if stamp == self._stamp:
                return
            self._stamp = stamp
            file = load_config(self._root)
        except (OSError, AirbossError) as error:
            self.said = f"airboss.toml cannot be read, what was applied holds: {str(error).splitlines()[0]}"
            return
        found = differences(self._config, file)
        if not found:
            self.said = "as applied"
            return
        self.said = f"airboss.toml has {len(found)} changes that are not applied: `airboss config diff`, `config apply`"
        await self._store.write(lambda s: self._notice(s, file, found, stat.st_uid))

    def _notice(self, session: Session, file: Config, found: tuple[Difference, ...], owner: int) -> None:
        digest = digest_of(governed(file))
        seen = session.get(KeyValue, NOTICED)
        if seen is not None and seen.value == digest:
            return
        session.merge(KeyValue(key=NOTICED, value=digest))
        log.warning("airboss.toml has changed; what was applied holds until an admin applies it")
        audit.append(session, actor="system:engine", action="config.changed", ref="engine:engine",
                     reason="airboss.toml was changed on disk; what was applied holds",
                     detail={"digest": digest, "owner": Actor.of_uid(owner).name,
                             "changes": [_line(one) for one in found]})  # fmt: skip
