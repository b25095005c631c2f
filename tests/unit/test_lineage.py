"""Lineage, walked in a real store: the same tree with an engine and without, diamonds, circles, and what is too much to show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.offline import OfflineStore
from engine.api.views.records import lineage
from state.labels import model_label
from state.lineage import MOST
from state.models import Dataset, LineageEdge, Release, Rollout, RolloutStep, Run, TrackState
from state.paths import Paths
from state.store import Store
from state.words import UsageError

NOW = time.time()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    paths = Paths.of(tmp_path)
    paths.make()
    opened = Store.open(paths.store)
    yield opened
    opened.close()


def fill(store: Store, *rows: object) -> None:
    store.write_now(lambda s: s.add_all(rows))


def edge(src: str, dst: str, kind: str = "from") -> LineageEdge:
    return LineageEdge(src=src, dst=dst, kind=kind, at=NOW)


def known(store: Store) -> None:
    """Two releases of one snapshot, the newer one live."""
    fill(
        store,
        Run(id="run-1", pipeline="charlm", state="succeeded", created_by="user:ann", created_at=NOW),
        Dataset(
            id="dataset-1", name="corpus", sha256="ab" * 32, rows=3, chars=90, source="x", path="p", created_at=NOW
        ),
    )
    for name, version in (("charlm-1", "7"), ("charlm-2", "")):
        fill(
            store,
            Release(
                id=name, service="chat", model_name="charlm", model_version=version, digest="f0" * 32, bundle_path="b", lifecycle="Production",
                run_id="run-1", created_by="user:ann", created_at=NOW,
            ),
            edge(f"release:{name}", "run:run-1", "made_by"),
        )  # fmt: skip
    fill(
        store,
        edge("run:run-1", "dataset:dataset-1", "read"),
        edge("release:charlm-2", "release:charlm-1", "parent"),
        edge("rollout:ro-1", "release:charlm-2", "serves"),
        TrackState(
            service="chat",
            env="production",
            target="local",
            track="stable",
            release_id="charlm-2",
            weight=100,
            since=NOW,
        ),
    )


@pytest.mark.parametrize(
    ("ref", "forward", "seen"),
    [
        ("chat", False, {"release:charlm-2", "run:run-1", "dataset:dataset-1", "release:charlm-1"}),
        ("service/chat@production", False, {"release:charlm-2"}),
        ("dataset-1", True, {"run:run-1", "release:charlm-1", "release:charlm-2", "service:chat@production"}),
        ("abababab", True, {"run:run-1", "service:chat@production"}),
        ("release/charlm-1", True, {"release:charlm-2", "service:chat@production"}),
    ],
)
def test_the_same_tree_with_an_engine_and_without(
    store: Store, tmp_path: Path, ref: str, forward: bool, seen: set[str]
) -> None:
    known(store)
    asked = store.read_now(lambda s: lineage(s, ref, forward=forward)).model_dump(mode="json")
    offline = OfflineStore.open(Paths.of(tmp_path))
    assert asked == offline.get("/v1/lineage", {"ref": ref, "forward": forward})
    text = str(asked)
    assert all(f"'{one}'" in text for one in seen)
    assert "rollout:ro-1" not in text
    offline.close()


def test_records_are_called_by_what_a_person_asks_of_them(store: Store) -> None:
    known(store)
    text = store.read_now(lambda s: lineage(s, "chat", forward=False)).model_dump_json()
    assert "charlm-1 · charlm v7 · Production · sha256 f0f0f0f0f0f0" in text
    assert "charlm-2 · charlm · Production" in text
    assert "corpus · 90 chars in 3 rows · sha256 abababababab" in text
    assert "run-1 · charlm · succeeded · by user:ann" in text
    assert [model_label("a", "1"), model_label("a", ""), model_label("", "1")] == ["a v1", "a", ""]


def test_a_circle_ends_and_a_diamond_stands_on_both_its_ways(store: Store) -> None:
    fill(store, edge("x:a", "x:b"), edge("x:b", "x:a"), edge("x:a", "x:c"), edge("x:b", "x:d"), edge("x:c", "x:d"))
    root = store.read_now(lambda s: lineage(s, "x/a", forward=False))
    b, c = root.children
    assert [(n.ref, [m.ref for m in n.children]) for n in (b, c)] == [("x:b", ["x:a", "x:d"]), ("x:c", ["x:d"])]
    assert b.children[0].children == ()


def test_more_than_a_person_reads_is_cut_and_counted(store: Store) -> None:
    fill(store, *(edge(f"run:n{at:05}", "dataset:d") for at in range(MOST + 500)))
    root = store.read_now(lambda s: lineage(s, "dataset/d", forward=True))
    assert len(root.children) <= MOST
    assert root.children[-1].kind == "more"
    assert root.children[-1].label.startswith(f"{MOST + 500 - (len(root.children) - 1)} more, not shown")


def test_a_name_of_nothing_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="nothing is called 'nobody'"):
        store.read_now(lambda s: lineage(s, "nobody", forward=False))


def test_an_answer_is_followed_from_its_request_id_to_the_data(store: Store, tmp_path: Path) -> None:
    known(store)
    asked = "r1-0mx3zrtgw-b-254f6bea43-charlm-2"
    fill(
        store,
        edge("dataset:d2", f"request:{asked}", "corrected"),
        edge(f"request:{asked}", "release:charlm-2", "answered_by"),
    )
    root = store.read_now(lambda s: lineage(s, asked))
    assert root.ref == f"request:{asked}"
    (release,) = root.children
    assert (release.ref, release.edge) == ("release:charlm-2", "answered 2026-12-01T01:01:50Z under table 11 by")
    assert "dataset:dataset-1" in str(release)
    assert store.read_now(lambda s: lineage(s, f"request/{asked}")) == root
    learned = store.read_now(lambda s: lineage(s, f"request/{asked}", forward=True))
    assert [node.ref for node in learned.children] == ["dataset:d2"]
    offline = OfflineStore.open(Paths.of(tmp_path))
    assert offline.get("/v1/lineage", {"ref": asked}) == root.model_dump(mode="json")
    offline.close()


def test_a_recall_names_what_answers_users_because_of_a_snapshot_and_nothing_else(store: Store) -> None:
    known(store)
    fill(
        store,
        edge("release:charlm-3", "release:charlm-2", "follows"),  # came after, of other data: no recall of the snapshot
        TrackState(service="chat", env="production", target="local", track="canary", release_id="charlm-3", weight=5, since=NOW),
    )  # fmt: skip
    root = store.read_now(lambda s: lineage(s, "dataset-1", live=True))
    (service,) = root.children
    assert (service.ref, service.edge) == ("service:chat@production", "stable 100 % by charlm-2")
    way, node = [], service
    while node.children:
        (node,) = node.children
        way.append((node.edge, node.ref))
    assert way == [("", "release:charlm-2"), ("made_by", "run:run-1"), ("read", "dataset:dataset-1")]
    assert (
        store.read_now(lambda s: lineage(s, "release/charlm-1", live=True)).label == "is live in"
    )  # parent: its weights
    fill(store, edge("run:run-9", "dataset:d9"))
    assert store.read_now(lambda s: lineage(s, "dataset/d9", live=True)).label == "is live nowhere"


def test_what_was_in_production_at_a_moment(store: Store, tmp_path: Path) -> None:
    def rollout(number: int, before: str | None, to: str, state: str, began: float, ended: float | None) -> None:
        fill(store, Rollout(id=f"ro-{number}", service="chat", env="production", target="local", strategy="canary", from_release=before,
                            to_release=to, state=state, created_by="user:ann", created_at=began, state_since=began, finished_at=ended))  # fmt: skip

    rollout(1, None, "c-1", "completed", 100.0, 110.0)
    rollout(2, "c-1", "c-2", "completed", 200.0, 260.0)
    rollout(3, "c-2", "c-3", "rolled_back", 300.0, 340.0)
    for number, weight, at in ((2, 25, 210.0), (2, 100, 240.0), (3, 50, 310.0)):
        fill(
            store, RolloutStep(rollout_id=f"ro-{number}", idx=int(weight), kind="weight", weight=weight, started_at=at)
        )

    def served(at: float) -> list[tuple[str, str]]:
        root = store.read_now(lambda s: lineage(s, "service/chat@production", at=at))
        offline = OfflineStore.open(Paths.of(tmp_path))
        assert offline.get("/v1/lineage", {"ref": "service/chat@production", "at": at}) == root.model_dump(mode="json")
        offline.close()
        return [(node.label, node.edge.partition(" in ")[0]) for node in root.children]

    assert served(50.0) == []
    assert served(150.0) == [("c-1", "100 %")]
    assert served(205.0) == [("c-1", "100 %")]
    assert served(220.0) == [("c-2", "25 %"), ("c-1", "75 %")]
    assert served(250.0) == [("c-2", "100 %")]
    assert served(320.0) == [("c-3", "50 %"), ("c-2", "50 %")]
    assert served(400.0) == [("c-2", "100 %")]
    with pytest.raises(UsageError, match="is no service"):
        store.read_now(lambda s: lineage(s, "release/c-1", at=1.0))
