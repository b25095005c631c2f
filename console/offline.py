"""The store, read without an engine: plain queries, read-only, the same answers as the engine's read paths where it can.

A store in PostgreSQL is read from its server, or, when that is away too, from the newest backup.

What only a living engine knows (rates, budgets, measured shares) is absent here, and shown as unknown.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.commands.children import serving_children
from console.offline_file import ReadOnlyStore, Row, damaged
from state.chain import walk
from state.log_files import tail
from state.words import OperationFailed, Unreachable, UsageError

if TYPE_CHECKING:
    pass


class OfflineStore(ReadOnlyStore):
    """Answers `get(path, params)` like the engine's client, from the store's records."""

    def get(self, path: str, params: Mapping[str, Any]) -> Any:
        """What the engine would answer at `path`, as far as the store knows it. Raises Unreachable for the rest."""
        for pattern, answer in _ANSWERS:
            if found := pattern.fullmatch(path):
                try:
                    return answer(self, params, *found.groups())
                except sqlite3.DatabaseError as error:
                    raise damaged(self._paths.store, error) from error
        raise Unreachable(
            f"{path.removeprefix('/v1/')} can only be said by a running engine, and none answers",
            hint="start the engine with `airboss up -d`",
        )

    def status(self) -> Row:
        """One screen of health, as far as it can be known without an engine."""
        from console.commands.stillness import status

        return status(self.rows, self._paths)

    def fleet(self) -> list[Row]:
        """Services by environment: what each track should serve."""
        from console.commands.stillness import fleet

        return fleet(self.rows)

    def rollouts(self, params: Mapping[str, Any]) -> list[Row]:
        """Rollouts, newest first."""
        return [
            self._rollout(row)
            for row in self.rows("SELECT * FROM rollout ORDER BY created_at DESC LIMIT 200")
            if params.get("service") in (None, row["service"]) and params.get("env") in (None, row["env"])
        ]

    def rollout(self, name: str) -> Row:
        """One rollout with its events."""
        row = self._one("SELECT * FROM rollout WHERE id = ?", "rollout", name)
        return {**self._rollout(row), "events": self.audit({"ref": f"rollout/{name}", "limit": 200})}

    def _rollout(self, row: Row) -> Row:
        verdicts = {
            v["step"]: {"at": v["at"], "step": v["step"], "kind": v["kind"], "sentence": v["sentence"]}
            for v in self.rows("SELECT * FROM verdict WHERE rollout_id = ? ORDER BY id", row["id"])
        }
        steps = [
            {
                "idx": s["idx"],
                "kind": s["kind"],
                "weight": s["weight"],
                "state": s["state"],
                "started_at": s["started_at"],
                "elapsed_s": s["elapsed_s"],
                "verdict": verdicts.get(s["idx"]),
            }
            for s in self.rows("SELECT * FROM rollout_step WHERE rollout_id = ? ORDER BY idx", row["id"])
        ]
        track = self.rows("SELECT weight FROM track WHERE rollout_id = ? AND track = 'canary'", row["id"])
        keep = {k: v for k, v in row.items() if k not in ("policy", "resume_state", "target")}
        return {
            **keep,
            "steps": steps,
            "verdict": verdicts.get(max(verdicts)) if verdicts else None,
            "weight": track[0]["weight"] if track else None,
            "measured_pct": None,
            "stable": None,
            "canary": None,
            "refusals": {},
        }

    def runs(self) -> list[Row]:
        """Runs, newest first."""
        return [self._run(row) for row in self.rows("SELECT * FROM run ORDER BY created_at DESC LIMIT 200")]

    def run(self, name: str) -> Row:
        """One run with its stages."""
        return self._run(self._one("SELECT * FROM run WHERE id = ?", "run", name))

    def _run(self, row: Row) -> Row:
        stages = self.rows(
            "SELECT name, state, started_at, finished_at, attempt, metrics, progress, gates, error"
            " FROM stage_run WHERE run_id = ? ORDER BY position",
            row["id"],
        )
        overrides = row["params"].get("overrides", row["params"]) if isinstance(row["params"], dict) else {}
        return {**row, "params": overrides, "stages": stages, "refusals": {}}

    def log(self, params: Mapping[str, Any], run: str, stage: str) -> Row:
        """A stage's log, from its file."""
        row = self.rows("SELECT log_path FROM stage_run WHERE run_id = ? AND name = ?", run, stage)
        if not row:
            raise OperationFailed(
                f"{run} has no stage {stage!r}", hint=f"`airboss run show {run}` lists them", code="not_found"
            )
        path = Path(row[0]["log_path"] or self._paths.runs / run / f"{stage}.log")
        offset = int(params.get("offset") or 0)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                body = file.read()
        except FileNotFoundError:
            body = b""
        return {
            "text": body.decode("utf-8", errors="replace"),
            "offset": offset,
            "next_offset": offset + len(body),
            "is_over": True,
        }

    def replica_logs(self, params: Mapping[str, Any], service: str) -> list[Row]:
        """What the service's replicas wrote, newest replica first, from their files."""
        env, begins = str(params.get("env") or ""), str(params.get("replica") or "")
        found = self.rows(
            "SELECT spawn_id AS id, env, release_id, state, started_at, ended_at, end_cause FROM spawn"
            " WHERE kind = 'model' AND service = ? AND (? = '' OR env = ?) ORDER BY started_at DESC LIMIT 200",
            service,
            env,
            env,
        )
        wanted = [row for row in found if row["id"].startswith(begins)][:12]
        lines = int(params.get("tail") or 50)
        return [{**row, "text": tail(self._paths.logs / f"{row['id']}.log", lines)} for row in wanted]

    def releases(self) -> list[Row]:
        """Releases, newest first."""
        return [self._release(row) for row in self.rows("SELECT * FROM release ORDER BY created_at DESC LIMIT 500")]

    def release(self, name: str) -> Row:
        """One release."""
        return self._release(self._one("SELECT * FROM release WHERE id = ?", "release", name))

    def _release(self, row: Row) -> Row:
        live = self.rows("SELECT service, env, track, weight FROM track WHERE release_id = ? AND weight > 0", row["id"])
        return {**row, "live_in": [f"{t['service']}@{t['env']} {t['track']} {t['weight']} %" for t in live]}

    def alerts(self, params: Mapping[str, Any]) -> list[Row]:
        """Alerts, newest first."""
        where = "" if params.get("all") else " WHERE state = 'active'"
        return [
            {**row, "silenced": False, "refusals": {}}
            for row in self.rows(f"SELECT * FROM alert{where} ORDER BY starts_at DESC LIMIT 500")
        ]

    def silences(self) -> list[Row]:
        """Silences in force."""
        found = self.rows("SELECT * FROM silence WHERE ends_at > ?", time.time())
        return found

    def freezes(self) -> list[Row]:
        """Freezes and holds."""
        from console.commands.stillness import freezes

        return freezes(self.rows)

    def glasses(self) -> list[Row]:
        """What was done past the rules, newest first."""
        return self.rows("SELECT * FROM broken_glass ORDER BY id DESC LIMIT 200")

    def audit(self, params: Mapping[str, Any]) -> list[Row]:
        """Audit rows, oldest first: those after an id, or the newest."""
        after, limit = params.get("after"), int(params.get("limit") or 200)
        ref = str(params.get("ref") or "").replace("/", ":", 1)
        order = "ASC" if after is not None else "DESC"
        of_ref = "AND ref = ?" if ref else ""  # said only when asked: so its index is used, whatever the history
        found = self.rows(
            f"SELECT id, at, actor, action, ref, reason, detail FROM audit WHERE id > ? {of_ref} ORDER BY id {order} LIMIT ?",
            *(after or 0, *([ref] if ref else []), limit),
        )
        return sorted(found, key=lambda row: int(row["id"]))

    def chain(self, after: int = 0) -> Iterator[Row]:
        """Audit rows with their hashes, one by one: there may be millions."""
        return self._each("SELECT * FROM audit WHERE id > ? ORDER BY id", after)

    def verify_audit(self) -> Row:
        """Walk the whole chain, and look for the head that was anchored beside the store."""
        # Read first: an engine may write a row, and anchor it, while we walk.
        anchor = self._paths.store.with_name("audit.head")
        anchored = anchor.read_text(encoding="ascii", errors="replace").strip() if anchor.exists() else ""
        found = walk(self.chain(), anchored)
        return {"ok": found.is_whole, "rows": found.rows, "head": found.head, "why": found.why}

    def drills(self) -> list[Row]:
        """Drills that were played, newest first."""
        found = self.rows(
            "SELECT * FROM audit WHERE ref >= 'drill:' AND ref < 'drill;' AND action = 'drill.finish' ORDER BY id DESC"
        )
        return [{"id": row["id"], "at": row["at"], "by": row["actor"], **row["detail"]} for row in found]

    def lineage(self, params: Mapping[str, Any]) -> Row:
        """What a record was made from, or forward: what was made from it."""
        from state.lineage import tree
        from state.lineage_live import live_at, live_from

        if params.get("at"):
            return live_at(self.rows, str(params["ref"]), float(params["at"])).to_json()
        if params.get("live"):
            return live_from(self.rows, str(params["ref"])).to_json()
        return tree(self.rows, str(params["ref"]), forward=bool(params.get("forward"))).to_json()

    def datasets(self) -> list[Row]:
        """Data sets, newest first."""
        return self.rows("SELECT * FROM dataset ORDER BY created_at DESC LIMIT 500")

    def _one(self, sql: str, kind: str, name: str) -> Row:
        found = self.rows(sql, name)
        if not found:
            raise UsageError(f"there is no {kind} {name}", hint=f"`airboss {kind} list` shows them", code=f"no_{kind}")
        return found[0]


Answer = Callable[..., Any]
_ANSWERS: tuple[tuple[re.Pattern[str], Answer], ...] = tuple(
    (re.compile(pattern), answer)
    for pattern, answer in (
        (r"/v1/status", lambda s, p: s.status()),
        (r"/v1/fleet", lambda s, p: s.fleet()),
        (r"/v1/rollouts", lambda s, p: s.rollouts(p)),
        (r"/v1/rollouts/([^/]+)", lambda s, p, name: s.rollout(name)),
        (r"/v1/runs", lambda s, p: s.runs()),
        (r"/v1/runs/([^/]+)", lambda s, p, name: s.run(name)),
        (r"/v1/runs/([^/]+)/log/([^/]+)", lambda s, p, run, stage: s.log(p, run, stage)),
        (r"/v1/releases", lambda s, p: s.releases()),
        (r"/v1/releases/([^/]+)", lambda s, p, name: s.release(name)),
        (r"/v1/datasets", lambda s, p: s.datasets()),
        (r"/v1/alerts", lambda s, p: s.alerts(p)),
        (r"/v1/silences", lambda s, p: s.silences()),
        (r"/v1/freezes", lambda s, p: s.freezes()),
        (r"/v1/glasses", lambda s, p: s.glasses()),
        (r"/v1/audit", lambda s, p: s.audit(p)),
        (r"/v1/audit/verify", lambda s, p: s.verify_audit()),
        (r"/v1/drills", lambda s, p: s.drills()),
        (r"/v1/lineage", lambda s, p: s.lineage(p)),
        (r"/v1/services/([^/]+)/logs", lambda s, p, name: s.replica_logs(p, name)),
        (r"/v1/serving", lambda s, p: serving_children(s._paths)),
    )
)
