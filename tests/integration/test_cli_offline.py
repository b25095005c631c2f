"""The worst hour: no engine. The store is still read, and a rollback still goes through the gateway's own socket."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import pytest
from patience import until
from sqlmodel import Session
from stranded import Gateway, airboss, gateway, paths

from console.offline import OfflineStore
from state import audit
from state.models import (
    Alert,
    Dataset,
    LineageEdge,
    Release,
    Rollout,
    RolloutStep,
    Run,
    StageRun,
    TrackState,
    VerdictRecord,
)
from state.paths import Paths
from state.store import Store

__all__ = ["gateway", "paths"]
AT = 1_790_000_000.0


def _fill(session: Session) -> None:
    """A release that is live, a better one that was rolled back, and how they came to be."""
    who = "user:ana"
    session.add(
        Dataset(id="d1", sha256="d" * 64, name="books", source="books/", path="", rows=10, chars=99, created_at=AT)
    )
    session.add(
        Run(id="run-1", pipeline="charlm", state="succeeded", created_by=who, created_at=AT, finished_at=AT + 9)
    )
    session.flush()
    session.add(StageRun(run_id="run-1", name="train", position=0, state="succeeded", started_at=AT, finished_at=AT + 8,
                         metrics={"loss": 1.5}))  # fmt: skip
    for n, lifecycle in ((1, "Production"), (2, "Rejected")):
        session.add(Release(
            id=f"charlm-{n}", service="chat", lifecycle=lifecycle, model_name="chat", model_version=str(n), digest="ab" * 32,
            bundle_path="", run_id="run-1", dataset_id="d1", created_by=who, created_at=AT + n, training={"steps": 600}))  # fmt: skip
    session.add(TrackState(service="chat", env="production", target="local", track="stable", release_id="charlm-1", weight=100,
                           replicas=1, since=AT))  # fmt: skip
    session.add(Rollout(id="ro-2", service="chat", env="production", target="local", strategy="canary", from_release="charlm-1",
                        to_release="charlm-2", state="rolled_back", created_by=who, created_at=AT + 20, state_since=AT + 60,
                        finished_at=AT + 60, message="the judge said FAIL"))  # fmt: skip
    session.flush()
    session.add(RolloutStep(rollout_id="ro-2", idx=0, kind="weight", weight=5, state="failed", elapsed_s=30.0))
    session.add(
        VerdictRecord(rollout_id="ro-2", step=0, at=AT + 50, kind="FAIL", sentence="errors 4.0 % against 0.1 %")
    )
    session.add(Alert(fingerprint="f", name="CanaryFailing", severity="page", service="chat", env="production",
                      summary="the canary is bad", state="active", starts_at=AT + 50))  # fmt: skip
    session.add(
        Alert(fingerprint="g", name="Old", severity="info", summary="was", state="resolved", starts_at=AT, ends_at=AT)
    )
    session.add(LineageEdge(src="release:charlm-1", dst="run:run-1", kind="made_by", at=AT))
    session.add(LineageEdge(src="run:run-1", dst="dataset:d1", kind="trained_on", at=AT))
    for n, action in enumerate(("deploy", "rollout.step", "rollback")):
        audit.append(
            session, actor=who, action=action, ref="rollout:ro-2", reason="näh", detail={"n": n, "x": 0.1}, at=AT + n
        )


@pytest.fixture
def store(paths: Paths) -> Paths:
    """The workspace with a store that an engine has written and left."""
    opened = Store.open(paths.store)
    opened.write_now(_fill)
    opened.close()
    return paths


def test_status_says_that_no_engine_runs_and_what_the_store_knows(store: Paths) -> None:
    ran = airboss("status", cwd=store.root)
    assert ran.code == 3
    assert "engine     down" in ran.out
    assert "charlm-1" in ran.out
    assert "CanaryFailing" in ran.out
    assert "no engine answers; read from the store at" in ran.err
    assert airboss("status", "-o", "json", cwd=store.root).items[0]["fleet"][0]["release_id"] == "charlm-1"


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["rollout", "list"], ["rollout/ro-2"]),
        (["release", "list"], ["release/charlm-2", "release/charlm-1"]),
        (["release", "list", "--env", "production"], ["release/charlm-1"]),
        (["run", "list"], ["run/run-1"]),
        (["alert", "list"], ["alert/1"]),
        (["alert", "list", "--all"], ["alert/1", "alert/2"]),
        (["audit", "list"], ["audit/1", "audit/2", "audit/3"]),
        (["audit", "list", "--limit", "1"], ["audit/3"]),
        (["audit", "list", "--ref", "rollout/ro-2", "--after", "1"], ["audit/2", "audit/3"]),
        (["lineage", "chat"], ["service:chat", "release:charlm-1", "run:run-1", "dataset:d1"]),
        (["lineage", "dataset/d1", "--forward"],
         ["dataset:d1", "run:run-1", "release:charlm-1", "service:chat@production"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_lists_read_the_store(store: Paths, words: list[str], names: list[str]) -> None:
    ran = airboss(*words, "-o", "name", cwd=store.root)
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == names


def test_one_rollout_is_shown_with_its_verdict_and_events(store: Paths) -> None:
    shown = airboss("rollout", "show", "ro-2", cwd=store.root).out
    assert "FAIL: errors 4.0 % against 0.1 %" in shown
    assert "rollback" in shown
    assert airboss("rollout", "show", "ro-9", cwd=store.root).code == 2
    assert "loss=1.5" in airboss("run", "show", "run-1", cwd=store.root).out


def test_what_only_an_engine_knows_is_refused_not_guessed(store: Paths) -> None:
    ran = airboss("slo", "list", cwd=store.root)
    assert ran.code == 3
    assert "only be said by a running engine" in ran.err


def test_verbs_need_the_engine(store: Paths) -> None:
    assert airboss("rollout", "pause", "ro-2", cwd=store.root).code == 3


def test_the_audit_chain_is_verified_without_an_engine(store: Paths) -> None:
    ran = airboss("audit", "verify", "-o", "json", cwd=store.root)
    assert ran.code == 0
    head = (store.state / "audit.head").read_text().strip()
    assert ran.items == [{"ok": True, "rows": 3, "head": head, "why": ""}]


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("UPDATE audit SET reason = 'nothing' WHERE id = 2", "row 2 does not follow from row 1"),
        ('UPDATE audit SET detail = \'{"n": 7, "x": 0.1}\' WHERE id = 3', "row 3 does not follow"),
        ("DELETE FROM audit WHERE id = 2", "row 3 does not follow from row 1"),
        ("DELETE FROM audit WHERE id = 3", "rows were cut off"),
    ],
)
def test_a_changed_history_is_seen(store: Paths, sql: str, why: str) -> None:
    with sqlite3.connect(store.store) as connection:
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute(sql)
    connection.close()
    ran = airboss("audit", "verify", cwd=store.root)
    assert ran.code == 1
    assert why in ran.out
    assert airboss("state", "check", cwd=store.root).code == 1


def test_the_audit_export_has_the_chain_in_it(store: Paths, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in airboss("audit", "export", cwd=store.root).out.splitlines()]
    assert [row["prev"] for row in rows[1:]] == [row["hash"] for row in rows[:-1]]
    to = tmp_path / "audit.jsonl"
    assert airboss("audit", "export", "--to", str(to), "--after", "2", cwd=store.root).code == 0
    assert len(to.read_text().splitlines()) == 1
    assert airboss("audit", "export", "--to", str(to), cwd=store.root).code == 6


def test_a_store_that_is_being_written_is_read_beside_its_writer(store: Paths) -> None:
    writer = Store.open(store.store)
    try:
        writer.write_now(lambda s: audit.append(s, actor="user:bob", action="note", ref="engine:engine"))
        assert airboss("audit", "list", "--limit", "1", "-o", "name", cwd=store.root).out == "audit/4\n"
    finally:
        writer.close()


def test_a_store_that_cannot_be_shared_is_read_from_a_copy(store: Paths) -> None:
    writer = Store.open(store.store)
    try:
        writer.write_now(lambda s: audit.append(s, actor="user:bob", action="note", ref="engine:engine"))
        copied = OfflineStore._copied(store)
        assert copied.verify_audit()["rows"] == 4
        copied.close()
    finally:
        writer.close()


def test_a_damaged_store_is_a_sentence(paths: Paths) -> None:
    paths.store.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    ran = airboss("rollouts", cwd=paths.root)
    assert ran.code == 1
    assert "cannot be read" in ran.err
    assert "state restore" in ran.err


def test_backup_check_and_restore(store: Paths) -> None:
    name = store.root.name
    ran = airboss("state", "backup", cwd=store.root)
    # The store is copied; that the live release's bundle is nowhere is said, and is no success.
    assert (ran.code, "not in it: charlm-1" in ran.out) == (1, True)
    writer = Store.open(store.store)
    writer.write_now(lambda s: audit.append(s, actor="user:bob", action="note", ref="engine:engine"))
    writer.close()
    assert airboss("state", "restore", "--yes", cwd=store.root).code == 2
    ran = airboss("state", "restore", "--yes", "--confirm-name", name, "--reason", "a test", cwd=store.root)
    assert ran.code == 0, ran.err
    assert airboss("audit", "list", "-o", "name", cwd=store.root).out.splitlines()[-1] == "audit/3"
    said = json.loads((store.state / "restored").read_text())
    assert (said["reason"], said["actor"].partition(":")[0]) == ("a test", "user")
    kept = list(store.state.glob("state.db.before-restore-*"))
    assert len(kept) >= 1


def test_drills_are_listed_from_the_store_and_a_last_one_has_its_age(store: Paths) -> None:
    detail = {"name": "kill", "service": "chat", "env": "staging", "outcome": "missed", "measured": {"back_s": 71.5},
              "target_s": 60.0, "message": ""}  # fmt: skip
    writer = Store.open(store.store)
    writer.write_now(
        lambda s: audit.append(s, actor="user:ana", action="drill.finish", ref="drill:kill", detail=detail, at=AT)
    )
    writer.close()
    drills = {item["name"]: item["last"] for item in airboss("drill", "list", "-o", "json", cwd=store.root).items}
    assert drills["rollback"] is None and drills["kill"]["measured"] == {"back_s": 71.5}
    assert "kill" in airboss("status", cwd=store.root).out and "missed" in airboss("status", cwd=store.root).out
    ran = airboss(
        "drill", "kill", "chat", "--env", "staging", "--yes", "--confirm-name", "chat", "--reason", "x", cwd=store.root
    )
    assert ran.code == 3, "an engine must run to be killed"


def test_a_restore_beside_an_engine_is_refused(store: Paths) -> None:
    import fcntl

    airboss("state", "backup", cwd=store.root)
    with store.engine_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = airboss("state", "restore", "--yes", "--confirm-name", "shop", "--reason", "x", cwd=store.root)
    assert ran.code == 6
    assert "the engine runs" in ran.err


def test_an_emergency_rollback_moves_all_traffic_and_leaves_a_record(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    until(lambda: gateway.releases(40) == {"charlm-1", "charlm-2"})
    ran = airboss("rollback", "chat", "--emergency", "--yes", "--reason", "answers are empty", cwd=paths.root)
    assert ran.code == 0, ran.err
    assert "rolled back: chat in production is charlm-1, table revision 1012, 1 of 1 workers" in ran.out
    assert gateway.releases(40) == {"charlm-1"}
    kept = json.loads((paths.gateway / "table.json").read_text())
    assert kept["revision"] == 1012
    assert kept["routes"][0]["routing"]["max_body_bytes"] == 100_000  # the route's limits stay as they were
    (record,) = [json.loads(path.read_text()) for path in (paths.state / "spill").glob("*.json")]
    assert (record["service"], record["env"], record["to_release"]) == ("chat", "production", "charlm-1")
    assert (record["reason"], record["table_revision"], record["uid"]) == ("answers are empty", 1012, os.getuid())
    assert [b["weight"] for b in record["before"]["backends"]] == [75, 25]


def test_a_dry_emergency_shows_what_would_change_and_changes_nothing(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    ran = airboss("rollback", "chat", "--emergency", "--dry-run", cwd=paths.root)
    assert ran.code == 0
    assert ran.out.splitlines()[2].split() == ["charlm-1", "75", "%", "100", "%"]
    assert ran.out.splitlines()[3].split() == ["charlm-2", "25", "%", "0", "%"]
    served = gateway.served()
    assert served is not None
    assert served["revision"] == 12
    assert not (paths.state / "spill").exists()


def test_an_emergency_off_a_terminal_must_be_confirmed(gateway: Gateway, paths: Paths) -> None:
    ran = airboss("rollback", "chat", "--emergency", cwd=paths.root)
    assert ran.code == 2
    assert "add --yes" in ran.err


def test_with_no_worker_the_next_one_serves_the_rolled_back_table(gateway: Gateway, paths: Paths) -> None:
    ran = airboss("rollback", "chat", "--emergency", "--yes", cwd=paths.root)
    assert ran.code == 3
    assert "the table is kept" in ran.err
    gateway.worker()
    assert gateway.releases() == {"charlm-1"}
    assert len(list((paths.state / "spill").glob("*.json"))) == 1


def test_a_worker_with_a_newer_table_than_the_kept_one_is_overtaken(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    (paths.gateway / "table.json").write_text(json.dumps({**gateway.table, "revision": 3}))
    assert airboss("rollback", "chat", "--emergency", "--yes", cwd=paths.root).code == 0
    served = gateway.served()
    assert served is not None
    assert served["revision"] == 1012


def test_a_lost_table_is_taken_from_a_living_worker(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    (paths.gateway / "table.json").write_text("{")
    assert airboss("rollback", "chat", "--emergency", "--yes", cwd=paths.root).code == 0
    assert gateway.releases() == {"charlm-1"}


def test_without_a_plan_it_says_which_plans_there_are(gateway: Gateway, paths: Paths) -> None:
    ran = airboss("rollback", "search", "--emergency", "--yes", cwd=paths.root)
    assert ran.code == 1
    assert "plans are kept for: chat@production" in ran.err


def test_a_damaged_plan_is_refused(gateway: Gateway, paths: Paths) -> None:
    (paths.rollback / "chat@production.json").write_text('{"service": "chat"}')
    ran = airboss("rollback", "chat", "--emergency", "--yes", cwd=paths.root)
    assert ran.code == 1
    assert "cannot be used" in ran.err


def test_a_replica_that_does_not_answer_is_said(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    gateway.processes[0].kill()
    gateway.processes[0].wait()
    ran = airboss("rollback", "chat", "--emergency", "--yes", cwd=paths.root)
    assert ran.code == 0
    assert "no replica of charlm-1 answers ready" in ran.err


def test_down_says_what_still_serves(gateway: Gateway, paths: Paths) -> None:
    gateway.worker()
    ran = airboss("down", cwd=paths.root)
    assert ran.code == 0
    assert "still running" in ran.out
    assert "g-0" in ran.out


def test_an_incident_is_written_from_the_store_alone(store: Paths, tmp_path: Path) -> None:
    hours = f"{int((time.time() - AT) / 3600) + 1}h"
    ran = airboss(
        "export", "incident", "--since", hours, "--service", "chat", "--out", str(tmp_path / "i"), cwd=store.root
    )
    assert ran.code == 0, ran.err
    (text,) = (tmp_path / "i").glob("*.md")
    assert "CanaryFailing" in text.read_text() and "ro-2" in text.read_text()
    assert airboss("export", "incident", "--since", "1h", "--until", "2h", cwd=store.root).code == 2
