"""What a shell may put where a name is wanted: the names that are there now, read from files, never from a started engine."""

from __future__ import annotations

import json
import sqlite3
import tomllib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

Names = Iterable[tuple[str, str]]
"""Names, each with a word about it."""
MOST = 60
"""More nobody reads; the shell asks again with what has been typed."""
BUSY_S = 0.3
ENGINE_S = 0.8
"""A person waits at the prompt for less than this."""

QUERIES = {
    "release": "SELECT id, service || ' ' || lifecycle FROM release WHERE substr(id, 1, length(?1)) = ?1 ORDER BY created_at DESC LIMIT ?2",
    "rollout": "SELECT id, service || ' in ' || env || ': ' || state FROM rollout WHERE substr(id, 1, length(?1)) = ?1"
    " ORDER BY state IN ('completed', 'rolled_back', 'superseded', 'cancelled'), created_at DESC LIMIT ?2",
    "run": "SELECT id, pipeline || ': ' || state FROM run WHERE substr(id, 1, length(?1)) = ?1 ORDER BY created_at DESC LIMIT ?2",
    "alert": "SELECT CAST(id AS TEXT), name || ' ' || service FROM alert WHERE substr(CAST(id AS TEXT), 1, length(?1)) = ?1"
    " ORDER BY state <> 'active', id DESC LIMIT ?2",
    "silence": "SELECT CAST(id AS TEXT), reason FROM silence WHERE substr(CAST(id AS TEXT), 1, length(?1)) = ?1"
    " AND ends_at > CAST(strftime('%s', 'now') AS REAL) ORDER BY id DESC LIMIT ?2",
    "glass": "SELECT CAST(id AS TEXT), verb || ' by ' || by FROM broken_glass WHERE substr(CAST(id AS TEXT), 1, length(?1)) = ?1"
    " ORDER BY acked_at IS NOT NULL, id DESC LIMIT ?2",
    "replica": "SELECT id, service || ' ' || release_id FROM spawn WHERE kind = 'model' AND state NOT IN ('exited', 'lost')"
    " AND substr(id, 1, length(?1)) = ?1 ORDER BY id LIMIT ?2",
}
PATHS = {"release": ("/v1/releases", "id", "lifecycle"), "rollout": ("/v1/rollouts", "id", "state"),
         "run": ("/v1/runs", "id", "state"), "alert": ("/v1/alerts", "id", "name"), "glass": ("/v1/glasses", "id", "verb"),
         "silence": ("/v1/silences", "id", "reason"), "replica": ("/v1/serving", "spawn_id", "release_id"),
         "service": ("/v1/fleet", "service", "env"), "env": ("/v1/fleet", "env", "")}  # fmt: skip
"""kind → where an engine lists it, and the fields of its name and of the word about it."""
TABLES = {"service": "service", "env": "environment", "pipeline": "pipeline", "hook": "hook", "policy": "policy"}
"""kind → the table of airboss.toml whose keys are its names."""


def names(kind: str, typed: str, workspace: Path | None, engine: str) -> list[tuple[str, str]]:
    """At most MOST names of a kind that begin with `typed`, each with a word about it. Starts nothing, waits for little."""
    if kind in ("topic", "verb"):
        return [row for row in _words(kind) if row[0].startswith(typed)]
    from console.commands.context import Context
    from console.commands.requests import Options

    context = Context(Options(workspace=workspace, engine=engine))
    if context.engine_url:
        return _begun(_asked(kind, context.engine_url), typed)
    if kind in TABLES:
        return _begun(_keys(context.paths.root / "airboss.toml", TABLES[kind]), typed)
    if kind in QUERIES and context.paths.store.exists():
        return _stored(context.paths.store, QUERIES[kind], typed)
    return _begun(_asked(kind, str(context.paths.live_engine_socket())), typed)


def _begun(rows: Names, typed: str) -> list[tuple[str, str]]:
    return list(dict(row for row in rows if row[0].startswith(typed)).items())[:MOST]


def _keys(file: Path, table: str) -> Names:
    settings = tomllib.loads(file.read_text(encoding="utf-8"))
    return [(name, "") for name in settings.get(table, {})]


def _stored(store: Path, query: str, typed: str) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{quote(str(store))}?mode=ro", uri=True, timeout=BUSY_S)) as db:
        return [(str(name), str(about or "")) for name, about in db.execute(query, (typed, MOST))]


def _asked(kind: str, engine: str) -> Names:
    if kind not in PATHS:
        return []
    path, name, about = PATHS[kind]
    if engine.startswith("unix:") or "://" not in engine:
        from console.commands.reading import read

        rows = read(engine.removeprefix("unix:").replace("///", "/", 1), path, timeout_s=ENGINE_S)
    else:
        from urllib.request import urlopen

        with urlopen(engine.rstrip("/") + path, timeout=ENGINE_S) as answer:
            rows = json.load(answer)
    return [(str(row[name]), str(row.get(about, "") or "")) for row in cast("list[dict[str, Any]]", rows)]


def _words(kind: str) -> Names:
    if kind == "verb":
        from engine.verbs import VERBS

        return [(verb.name, verb.summary) for verb in VERBS.values()]
    from console.commands.topic_names import ABOUT

    return list(ABOUT.items())
