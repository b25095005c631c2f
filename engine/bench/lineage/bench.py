"""`airboss bench lineage`: the questions of lineage on a store with a million edges, with the index on an edge's far end and without."""

from __future__ import annotations

import argparse
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from engine.bench.progress import say
from engine.bench.report import Report, Row, busy_notes, compared, interleaved, limited
from state.lineage import MOST, Node, Rows, tree
from state.lineage_live import live_from
from state.store import Store

EDGES, QUICK_EDGES = 1_000_000, 100_000
RUNS_OF_A_SNAPSHOT = 40
LIVE = 50
ASKED, ROUNDS = 20, 5
LIMIT_MS = 50.0
INDEX = "ix_lineage_edge_dst"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--edges", type=int, help=f"Of the graph (default {EDGES}, with --quick {QUICK_EDGES}).")


def measure(options: argparse.Namespace) -> Report:
    """A row a question; what is asked is drawn anew each time, with a fixed seed."""
    edges = options.edges or (QUICK_EDGES if options.quick else EDGES)
    rounds = options.rounds or ROUNDS
    with tempfile.TemporaryDirectory(prefix="airboss-bench-") as folder:
        path = Path(folder) / "state.db"
        say(f"writing {edges} edges")
        fill(path, edges)
        with closing(sqlite3.connect(path)) as db:
            rows = tuple(_rows(db, edges, rounds))
    return Report(
        "lineage", rows, notes=(*busy_notes(), f"a store of {edges} edges; each round asks {ASKED} times, by turns")
    )


def _rows(db: sqlite3.Connection, edges: int, rounds: int) -> Iterator[Row]:
    db.row_factory = sqlite3.Row
    draw = random.Random(7)
    runs = edges // 5

    def snapshot() -> str:
        return f"dataset/d{draw.randrange(1, runs // RUNS_OF_A_SNAPSHOT)}"

    back = _asker(db, lambda: f"release/r{draw.randrange(runs)}", False)
    recall = _asker(db, snapshot, True)
    hot = _asker(db, lambda: "dataset/d0", True)
    answer = _asker(db, lambda: f"request/r1-0mx3zrtgw-b-254f6bea43-r{draw.randrange(runs)}", False)
    live = _asker(db, lambda: "dataset/d0", True, walk=lambda rows, ref, forward: live_from(rows, ref))
    say("asking")
    found = interleaved(rounds, {"back": back, "answer": answer, "recall": recall, "live": live, "hot": hot})
    yield limited(
        "where a release is from", "ms", found["back"], at_most=LIMIT_MS, note="12 steps back, parents with their data"
    )
    yield limited(
        "where an answer is from",
        "ms",
        found["answer"],
        at_most=LIMIT_MS,
        note="a request id, and as far back as above",
    )
    yield limited(
        "what is live from a snapshot",
        "ms",
        found["live"],
        at_most=LIMIT_MS,
        note=f"{LIVE} live releases, half of all releases are of this snapshot",
    )
    yield limited(
        "what is made of a snapshot",
        "ms",
        found["recall"],
        at_most=LIMIT_MS,
        note=f"{RUNS_OF_A_SNAPSHOT} runs, their releases, and on",
    )
    yield limited(
        "a snapshot that half of all is made of",
        "ms",
        found["hot"],
        at_most=LIMIT_MS,
        note=f"cut at {MOST} records, and counted",
    )
    say("asking without the index")
    db.execute(f"DROP INDEX {INDEX}")
    bare = [_asker(db, snapshot, True, asked=1)()] * rounds  # every level reads the whole table: once is long enough
    yield compared(
        "what is made of a snapshot, index on dst",
        "ms",
        found["recall"],
        bare,
        "without it",
        note="the same walk; asked once without it",
    )


def _tree(rows: Rows, ref: str, forward: bool) -> Node:
    return tree(rows, ref, forward=forward)


def _asker(
    db: sqlite3.Connection, name: Callable[[], str], forward: bool, asked: int = ASKED,
    walk: Callable[[Rows, str, bool], Node] = _tree,
) -> Callable[[], float]:  # fmt: skip
    def rows(sql: str, *values: Any) -> list[Any]:
        return db.execute(sql, values).fetchall()

    def ask() -> float:
        """Milliseconds of one answer, the mean of some."""
        names = [name() for _ in range(asked)]
        began = time.perf_counter()
        for one in names:
            answer = walk(rows, one, forward)
            assert answer.children, f"{one} has no lineage"
        return (time.perf_counter() - began) * 1000 / asked

    return ask


def fill(path: Path, edges: int) -> None:
    """A store with about so many edges: snapshot ← run ← release, with commit, prompt and parent release; half of all runs read one
    snapshot, as a product's main corpus is.
    """
    Store.open(path).close()
    runs = edges // 5
    snapshots = max(2, runs // RUNS_OF_A_SNAPSHOT)
    draw = random.Random(1)

    def some() -> Iterator[tuple[str, str, str, float]]:
        for at in range(runs):
            data = 0 if draw.random() < 0.5 else draw.randrange(1, snapshots)
            yield f"run:n{at}", f"dataset:d{data}", "read", 0.0
            yield f"run:n{at}", f"commit:c{at // 7}", "ran", 0.0
            yield f"release:r{at}", f"run:n{at}", "made_by", 0.0
            yield f"release:r{at}", f"prompt:p{at % 900}", "prompt", 0.0
            if at >= snapshots:
                yield f"release:r{at}", f"release:r{at - draw.randrange(1, snapshots)}", "follows", 0.0

    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("INSERT OR IGNORE INTO lineage_edge (src, dst, kind, at) VALUES (?, ?, ?, ?)", some())
        db.executemany(
            "INSERT INTO track (service, env, target, track, release_id, rollout_id, weight, replicas, routing, since)"
            " VALUES (?, 'production', 'local', 'stable', ?, '', 100, 1, '{}', 0)",
            ((f"s{at}", f"r{runs - 1 - at}") for at in range(LIVE)),
        )
