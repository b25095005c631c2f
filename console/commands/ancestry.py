"""The lineage of a record, walked in the store's own tables. `rows(sql, *values)` runs a query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from state.words import UsageError

Rows = Callable[..., list[dict[str, Any]]]
DEPTH = 12


def tree(rows: Rows, ref: str, *, forward: bool) -> dict[str, Any]:
    """The tree below `ref`: what it was made from, or with `forward` what was made from it. Raises UsageError."""
    return _node(rows, _canonical(rows, ref), "", forward, frozenset(), DEPTH)


def _canonical(rows: Rows, ref: str) -> str:
    kind, _, name = ref.replace("/", ":", 1).partition(":")
    if name:
        return f"{kind}:{name}"
    for table in ("release", "run", "rollout", "dataset"):
        if rows(f"SELECT id FROM {table} WHERE id = ?", ref):
            return f"{table}:{ref}"
    if rows("SELECT service FROM track WHERE service = ? LIMIT 1", ref):
        return f"service:{ref}"
    raise UsageError(
        f"nothing is called {ref!r}", hint="a service, release, run, rollout or data snapshot", code="no_ref"
    )


def _node(rows: Rows, ref: str, edge: str, forward: bool, above: frozenset[str], depth: int) -> dict[str, Any]:
    kind, _, name = ref.partition(":")
    children = []
    if depth and ref not in above:
        children = [
            _node(rows, other, how, forward, above | {ref}, depth - 1) for other, how in _next(rows, ref, forward)
        ]
    return {"ref": ref, "kind": kind, "label": _label(rows, kind, name), "edge": edge, "children": children}


def _next(rows: Rows, ref: str, forward: bool) -> list[tuple[str, str]]:
    kind, _, name = ref.partition(":")
    if kind == "service" and not forward:
        # What a service is made of is what is live now, not everything that ever was.
        service, _, env = name.partition("@")
        live = rows("SELECT * FROM track WHERE service = ? AND weight > 0 AND (? = '' OR env = ?)", service, env, env)
        return [(f"release:{t['release_id']}", f"{t['track']} {t['weight']} % in {t['env']}") for t in live]
    here, there = ("dst", "src") if forward else ("src", "dst")
    edges = rows(f"SELECT * FROM lineage_edge WHERE {here} = ? ORDER BY {there}", ref)
    found = [(edge[there], edge["kind"]) for edge in edges if not (forward and edge["kind"] == "serves")]
    if kind == "release" and forward:
        live = rows("SELECT * FROM track WHERE release_id = ? AND weight > 0", name)
        found += [(f"service:{t['service']}@{t['env']}", f"{t['track']} {t['weight']} %") for t in live]
    return found


def _label(rows: Rows, kind: str, name: str) -> str:
    if kind == "release" and (found := rows("SELECT * FROM release WHERE id = ?", name)):
        return f"{found[0]['model_name']} v{found[0]['model_version']}, sha256 {found[0]['digest'][:12]}"
    if kind == "run" and (found := rows("SELECT * FROM run WHERE id = ?", name)):
        return f"{found[0]['pipeline']}, {found[0]['state']}, by {found[0]['created_by']}"
    if kind == "dataset" and (found := rows("SELECT * FROM dataset WHERE id = ?", name)):
        return f"{found[0]['name']}, {found[0]['chars']} chars, sha256 {found[0]['sha256'][:12]}"
    return name
