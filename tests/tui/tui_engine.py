"""A fake engine at the port: a real HTTP server on a real Unix socket that serves a snapshot one can change.

It applies the verbs it gets to its own snapshot as the engine would, so that tests assert on what became of the world.
"""

from __future__ import annotations

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tui_world import FORWARD, LINEAGE, alert, rollout, snapshot

from engine.api.lines import MEDIA_TYPE, event_lines, snapshot_lines, tags_of
from engine.api.schemas import (
    PlanLine,
    PlanView,
    VerbRequest,
)


class FakeEngine:
    """Serves `world`; `change` swaps it and says so on the event stream."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.world = snapshot()
        self.logs: dict[str, str] = {"train": "step 10 loss 4.1\nstep 20 loss 3.2\n"}
        self.replica_logs: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []
        self.done: list[VerbRequest] = []
        """Verbs that were carried out, dry runs left out."""
        self.refuse: dict[str, Any] | None = None
        self.verb_delay_s = 0.0
        self._changed = threading.Condition()
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def start(self) -> None:
        """Listen."""
        self.socket_path.unlink(missing_ok=True)
        engine = self

        class Handler(_Handler):
            fake = engine

        self._server = _Server(str(self.socket_path), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Answer no more: as a killed engine, the socket's file stays."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            with self._changed:
                self._changed.notify_all()

    @property
    def is_up(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    def change(self, **changes: Any) -> None:
        """A new world, a second later."""
        with self._changed:
            self.world = self.world.model_copy(
                update={"seq": self.world.seq + 1, "as_of": self.world.as_of + 1, **changes}
            )
            self._changed.notify_all()

    def change_rollout(self, state: str, **changes: Any) -> None:
        """Move ro-2."""
        self.change(
            rollouts=(rollout(state, revision=self.world.rollouts[0].revision + 1, **changes), *self.world.rollouts[1:])
        )

    def wait_for_change(self, seq: int, timeout_s: float) -> int:
        """The sequence number of the world, once it is past `seq` or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self.world.seq > seq or not self.is_up, timeout_s)
            return self.world.seq

    def run_verb(self, request: VerbRequest) -> tuple[int, dict[str, Any]]:
        """Do a verb, or refuse it as the engine would."""
        time.sleep(self.verb_delay_s)
        if self.refuse is not None:
            return 409, {"error": self.refuse}
        if request.dry_run:
            plan = PlanView(
                verb=request.verb,
                ref=request.ref,
                lines=(PlanLine(object=request.ref, field="state", before="as is", after=request.verb),),
            )
            return 200, {
                "verb": request.verb,
                "ref": request.ref,
                "changed": False,
                "message": "",
                "plan": plan.model_dump(),
            }
        current = self.world.rollouts[0]
        if request.ref == "rollout/ro-2" and request.expect_revision not in (None, current.revision):
            return 409, {
                "error": {
                    "code": "conflict",
                    "exit": 6,
                    "message": f"rollout ro-2 is at revision {current.revision}",
                    "retryable": False,
                    "hint": "look again",
                }
            }
        self.done.append(request)
        after = {
            "rollback": "rolling_back",
            "rollout.abort": "rolling_back",
            "rollout.pause": "paused",
            "rollout.resume": "step_baking",
            "rollout.promote": "step_applying",
            "rollout.promote_full": "promoting",
        }.get(request.verb)
        if after is not None:
            self.change_rollout(after, **({"pause_reason": "manual"} if after == "paused" else {}))
        if request.verb == "alert.ack":
            self.change(alerts=(alert(acked_by="user:me"), *self.world.alerts[1:]))
        return 200, {
            "verb": request.verb,
            "ref": request.ref,
            "changed": True,
            "message": f"{request.verb} on {request.ref} is under way",
        }


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32


class _Handler(BaseHTTPRequestHandler):
    fake: FakeEngine
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def address_string(self) -> str:
        """A Unix socket's peer has no address."""
        return "unix"

    def _answer(self, body: str, status: int = 200, content_type: str = "application/json") -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(data)))
        if not self.fake.is_up:
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Reads."""
        if not self.fake.is_up:
            self.close_connection = True
            self.connection.close()
            return
        url, world = urlsplit(self.path), self.fake.world
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")[1:]
        if parts == ["snapshot"]:
            seen = world.model_copy(
                update={"rollouts": tuple(r.model_copy(update={"events": ()}) for r in world.rollouts)}
            )
            if MEDIA_TYPE in self.headers.get("accept", ""):
                lines = snapshot_lines(seen, tags_of(query.get("have", "")))
                self._answer(lines.decode(), content_type=MEDIA_TYPE)
            else:
                self._answer(seen.model_dump_json())
        elif parts == ["status"]:
            self._answer(world.status.model_dump_json())
        elif parts == ["events"]:
            self._events(int(query.get("after", 0)))
        elif parts[0] == "rollouts" and len(parts) == 2:
            found = next((r for r in world.rollouts if r.id == parts[1]), None)
            self._answer(found.model_dump_json()) if found else self._missing(parts[1])
        elif parts[0] == "runs" and len(parts) == 4:
            data = self.fake.logs.get(parts[3], "").encode()
            offset = int(query.get("offset", 0))
            offset = offset if offset >= 0 else max(len(data) + offset, 0)
            self._answer(
                json.dumps(
                    {"text": data[offset:].decode(), "offset": offset, "next_offset": len(data), "is_over": False}
                )
            )
        elif parts[0] == "services" and parts[2:] == ["logs"]:
            wanted = query.get("replica", "")
            self._answer(json.dumps([one for one in self.fake.replica_logs if one["id"].startswith(wanted)]))
        elif parts == ["lineage"]:
            self._answer((FORWARD if query.get("forward") == "1" else LINEAGE).model_dump_json())
        elif parts in (["alerts"], ["rollouts"], ["slos"]):
            self._answer("[" + ",".join(a.model_dump_json() for a in getattr(world, parts[0])) + "]")
        elif parts == ["audit"]:
            before, after = int(query.get("before", 0)) or 1 << 40, int(query.get("after", 0))
            rows = [a for a in world.audit if after < a.id < before]
            if "limit" in query:
                limit = int(query["limit"])
                rows = rows[:limit] if "after" in query else sorted(rows, key=lambda a: a.id)[-limit:]
            if MEDIA_TYPE in self.headers.get("accept", ""):
                self._answer(event_lines(rows).decode(), content_type=MEDIA_TYPE)
            else:
                self._answer("[" + ",".join(a.model_dump_json() for a in rows) + "]")
        else:
            self._missing(url.path)

    def _missing(self, what: str) -> None:
        self._answer(
            json.dumps(
                {
                    "error": {
                        "code": "usage",
                        "exit": 2,
                        "message": f"there is no {what}",
                        "retryable": False,
                        "hint": "",
                    }
                }
            ),
            404,
        )

    def _events(self, after: int) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        seq = after or self.fake.world.seq
        try:
            while self.fake.is_up:
                new = self.fake.wait_for_change(seq, 0.5)
                text = f'data: {{"seq":{new},"at":0,"type":"changed","ref":"x"}}\n\n' if new > seq else ": idle\n\n"
                self.wfile.write(text.encode())
                self.wfile.flush()
                seq = new
        except OSError:
            pass
        self.close_connection = True

    def do_POST(self) -> None:
        """Verbs."""
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        if not self.fake.is_up:
            self.close_connection = True
            return
        if self.path == "/v1/ask":
            self.fake.asked.append(json.loads(body))
            told = {
                "text": " there, said the model",
                "release": "charlm-2",
                "track": "canary",
                "replica": "m-7a2b",
                "latency_ms": 41.0,
            }
            self._answer(json.dumps(told))
            return
        status, answer = self.fake.run_verb(VerbRequest.model_validate_json(body))
        self._answer(json.dumps(answer), status)
