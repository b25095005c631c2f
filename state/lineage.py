"""Lineage: where a record came from, and what came of it. One walk, for the engine and for whoever reads the store without one.

Standard library only: it asks by plain SQL. The graph is read level by level, a few queries each whatever a level's width, over indexes on
both ends of an edge; then the tree is put together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from state.labels import model_label
from state.request_form import parts
from state.words import UsageError

Rows = Callable[..., Sequence[Mapping[str, Any]]]
"""`rows(sql, *values)` runs a query with `?` where values go."""
DEPTH: Final = 12
MOST: Final = 2000
"""Nodes of a tree: more than a person reads. What is left out is counted where it would stand."""
_NO_ROLLOUT: Final = " AND (src < 'rollout:' OR src >= 'rollout;')"
"""Where a release is live is said by its track. By the name, not the kind: the index alone answers it."""
_CHUNK: Final = 400
"""Names in one query: SQLite and PostgreSQL both take more, and plan no better."""


@dataclass(frozen=True, slots=True)
class Node:
    """A record, how the one above it is tied to it (`edge`), and what is below."""

    ref: str
    kind: str
    label: str
    edge: str
    children: tuple[Node, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The tree as plain JSON."""
        return {
            "ref": self.ref,
            "kind": self.kind,
            "label": self.label,
            "edge": self.edge,
            "children": [child.to_json() for child in self.children],
        }


def tree(rows: Rows, ref: str, *, forward: bool) -> Node:
    """The tree below `ref`: what it was made from, or with `forward` what was made from it and where it is live.

    Raises UsageError when nothing has that name.
    """
    root = canonical(rows, ref)
    graph = _read(rows, root, forward)
    return _Planter(graph, _labels(rows, graph)).plant(root, "", DEPTH, frozenset())


def moment(at: float) -> str:
    """Unix seconds as RFC 3339 UTC, to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def canonical(rows: Rows, ref: str) -> str:
    """`kind:id` of what a person wrote: `chat`, `charlm-2`, `run-3`, `release/charlm-2`, a data snapshot's digest.

    Raises UsageError when nothing has that name.
    """
    kind, _, name = ref.replace("/", ":", 1).partition(":")
    if name:
        return f"{kind}:{name}"
    if parts(ref) is not None:
        return f"request:{ref}"
    for table in ("release", "run", "rollout", "dataset"):
        if rows(f"SELECT id FROM {table} WHERE id = ?", ref):
            return f"{table}:{ref}"
    if rows("SELECT service FROM track WHERE service = ? LIMIT 1", ref):
        return f"service:{ref}"
    if len(ref) >= 8 and (found := rows("SELECT id FROM dataset WHERE substr(sha256, 1, ?) = ?", len(ref), ref)):
        return f"dataset:{found[0]['id']}"
    raise UsageError(
        f"nothing is called {ref!r}",
        hint="a service, release, run, rollout, data snapshot or request id; `airboss release list` shows some",
        code="no_ref",
    )


@dataclass(slots=True)
class _Graph:
    """Record → (record next to it, edge) of what was reached. `cut` has how many edges of a record were left out."""

    next: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    cut: dict[str, int] = field(default_factory=dict)
    refs: dict[str, None] = field(default_factory=dict)


def _read(rows: Rows, root: str, forward: bool) -> _Graph:
    graph = _Graph(refs={root: None})
    level = [root]
    for _ in range(DEPTH):
        found = _edges(rows, level, forward, graph.cut)
        level = []
        for here, there, how in found:
            if there not in graph.refs and len(graph.refs) >= MOST:
                graph.cut[here] = graph.cut.get(here, 0) + 1
                continue
            graph.next[here].append((there, how))
            if there not in graph.refs:
                graph.refs[there] = None
                level.append(there)
        if not level:
            break
    return graph


def _edges(rows: Rows, refs: Sequence[str], forward: bool, cut: dict[str, int]) -> Iterator[tuple[str, str, str]]:
    """(record, record next to it, how) of each edge that leaves one of `refs`; of more than can be shown, `cut` gets the number."""
    here, there = ("dst", "src") if forward else ("src", "dst")
    made_from = refs if forward else [ref for ref in refs if not ref.startswith("service:")]
    for some, marks in _chunks(made_from):
        of_them = f"FROM lineage_edge WHERE {here} IN ({marks}){_NO_ROLLOUT if forward else ''}"
        found = rows(f"SELECT src, dst, kind {of_them} ORDER BY {here}, {there} LIMIT {MOST + 1}", *some)
        if len(found) > MOST:  # what nobody will read is counted where it lies, in the index, and not fetched
            found = found[:MOST]
            shown = Counter(e[here] for e in found)
            for total in rows(f"SELECT {here}, COUNT(*) AS n {of_them} GROUP BY {here}", *some):
                if left := total["n"] - shown[total[here]]:
                    cut[total[here]] = cut.get(total[here], 0) + left
        # A request says itself which release answered it; the recorded edge serves the way forward.
        yield from ((e[here], e[there], e["kind"]) for e in found if forward or e["kind"] != "answered_by")
    for ref in [] if forward else refs:
        if ref.startswith("request:") and (said := parts(ref.removeprefix("request:"))) and said[3]:
            yield ref, f"release:{said[3]}", f"answered {moment(said[0] / 1000)} under table {said[1]} by"
    if forward:
        releases = [ref.removeprefix("release:") for ref in refs if ref.startswith("release:")]
        for some, marks in _chunks(releases):
            for t in rows(f"SELECT * FROM track WHERE weight > 0 AND release_id IN ({marks})", *some):
                yield (
                    f"release:{t['release_id']}",
                    f"service:{t['service']}@{t['env']}",
                    f"{t['track']} {t['weight']} %",
                )
        return
    # What a service is made of is what is live now, not everything that ever was.
    for ref in refs:
        if ref.startswith("service:"):
            service, _, env = ref.removeprefix("service:").partition("@")
            live = rows("SELECT * FROM track WHERE service = ? AND weight > 0 ORDER BY env, track", service)
            for t in live:
                if not env or t["env"] == env:
                    yield ref, f"release:{t['release_id']}", f"{t['track']} {t['weight']} % in {t['env']}"


_SAID: Final[dict[str, Callable[[Mapping[str, Any]], str]]] = {
    "release": lambda r: (
        f"{r['id']} · {model_label(r['model_name'], r['model_version'])} · {r['lifecycle']} · sha256 {r['digest'][:12]}"
    ),
    "run": lambda r: f"{r['id']} · {r['pipeline']} · {r['state']} · by {r['created_by']}",
    "dataset": lambda r: f"{r['name']} · {r['chars']} chars in {r['rows']} rows · sha256 {r['sha256'][:12]}",
}


def _labels(rows: Rows, graph: _Graph) -> dict[str, str]:
    """What each record is called; one that has no row of its own is called by its name."""
    by_kind: dict[str, list[str]] = defaultdict(list)
    for ref in graph.refs:
        kind, _, name = ref.partition(":")
        if kind in _SAID:
            by_kind[kind].append(name)
    return {
        f"{kind}:{row['id']}": _SAID[kind](row)
        for kind, names in by_kind.items()
        for some, marks in _chunks(names)
        for row in rows(f"SELECT * FROM {kind} WHERE id IN ({marks})", *some)
    }


@dataclass(slots=True)
class _Planter:
    """Puts the tree together. A record that is reached on two ways stands on both, as long as there is room."""

    graph: _Graph
    labels: Mapping[str, str]
    left: int = MOST

    def plant(self, ref: str, edge: str, depth: int, above: frozenset[str]) -> Node:
        self.left -= 1
        kind, _, name = ref.partition(":")
        children: list[Node] = []
        if depth and ref not in above:
            nexts = self.graph.next.get(ref, [])
            for at, (other, how) in enumerate(nexts):
                if self.left <= 0:
                    children.append(_more(ref, len(nexts) - at + self.graph.cut.get(ref, 0)))
                    break
                children.append(self.plant(other, how, depth - 1, above | {ref}))
            else:
                if cut := self.graph.cut.get(ref):
                    children.append(_more(ref, cut))
        return Node(ref, kind, self.labels.get(ref, name), edge, tuple(children))


def _more(ref: str, count: int) -> Node:
    return Node(ref, "more", f"{count} more, not shown: `airboss lineage {ref.replace(':', '/', 1)}` begins there", "")


def _chunks(names: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Some of the names, and as many `?`."""
    rest = list(names)
    while rest:
        some, rest = rest[:_CHUNK], rest[_CHUNK:]
        yield some, ", ".join("?" * len(some))
