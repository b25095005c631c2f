"""An engine that is only a picture: snapshots of any size over a Unix socket, still or with numbers that move once a second."""

from __future__ import annotations

import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from engine.api.lines import MEDIA_TYPE, snapshot_lines, tags_of
from engine.api.schemas import FleetRow, ReleaseView, Snapshot, StatusView, TrackView

NAME = "svc-{:05d}"
NO_MORE = json.dumps({"error": {"code": "none", "exit": 2, "message": "only a picture"}}).encode()
T0 = 1_700_000_000.0


def fleet_row(number: int, beat: int) -> FleetRow:
    """A service; with each `beat` its numbers are others."""
    moved = (number * 7 + beat * 13) % 100
    tracks = tuple(
        TrackView(track=track, release_id=f"{release}-{number}", weight=weight, measured_pct=weight + moved / 100, replicas=1,
                  ready=1, requests=1000 + moved, errors=moved % 3, p95_ms=80.0 + moved)
        for track, release, weight in (("stable", "old", 75), ("canary", "new", 25))
    )  # fmt: skip
    return FleetRow(
        service=NAME.format(number), env="production", protected=True, release_id=f"old-{number}", tracks=tracks,
        rps=10.0 + moved, p95_ms=80.0 + moved, error_ratio=moved / 10_000, budget_left=1 - moved / 200, coverage=1.0,
        rollout_id=None, phase="", alerts=0, paging=0, held_by="", frozen="",
        rate_series=tuple(float((moved + n) % 50) for n in range(30)),
    )  # fmt: skip


def release(number: int) -> ReleaseView:
    """A release with as many fields as one has."""
    return ReleaseView(
        id=f"rel-{number:05d}", service=NAME.format(number % 50), lifecycle="Staging", model_name="m", model_version=str(number),
        digest=f"{number:064x}", run_id=f"run-{number}", dataset_id="ds-1", prompt_id=None, parent_id=None, git_commit="0123abc",
        seed=1, training={"steps": number, "lr": 0.001}, serving={"max_batch": 8}, metrics={"val_loss": 2.0, "bits": 3.0},
        live_in=(), rejected_reason="", created_by="user:bench", created_at=T0 - number,
    )  # fmt: skip


def snapshot(services: int, releases: int, beat: int) -> Snapshot:
    """All there is at a beat; the same beat is the same bytes."""
    status = StatusView(
        version="bench", pid=1, workspace="/bench", name="bench", is_demo=False, state="running", started_at=T0,
        gateway="http://127.0.0.1:1", gateway_workers=2, gateway_ready=2, replicas=2, replicas_ready=2, adapters={},
        audit_rows=1, audit_head="", audit_ok=True, no_one_is_paged=False,
    )  # fmt: skip
    return Snapshot(
        seq=1 + beat, as_of=T0 + beat, status=status, fleet=tuple(fleet_row(n, beat) for n in range(services)), rollouts=(),
        runs=(), releases=tuple(release(n) for n in range(releases)), alerts=(), slos=(), serving=(), audit=(),
    )  # fmt: skip


class Picture:
    """Serves one snapshot, or with `moves` another one each second."""

    def __init__(self, socket: Path, services: int, releases: int = 0, *, moves: bool = False) -> None:
        self.socket, self.moves = socket, moves
        # What is served is made before: the console is measured, not this.
        self._bodies: dict[str, bytes] = {}
        self._snapshots = [snapshot(services, releases, beat) for beat in range(20 if moves else 1)]
        self._began = time.monotonic()
        self._server = _Server(str(socket), _handler(self))
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def now(self) -> Snapshot:
        """The snapshot of now."""
        return self._snapshots[int(time.monotonic() - self._began) % len(self._snapshots)]

    def body(self, have: str) -> bytes:
        """The snapshot of now, for a console that has what `have` says, as an engine answers it."""
        seen = self.now()
        asked = f"{seen.seq} {have}"
        if asked not in self._bodies:
            self._bodies[asked] = snapshot_lines(seen, tags_of(have))
        return self._bodies[asked]

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self.socket.unlink(missing_ok=True)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


def _handler(picture: Picture) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path.startswith("/v1/events"):
                # A stream on which nothing happens: the console looks by itself once a second.
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.close_connection = True
                threading.Event().wait(30.0)
                return
            url = urlsplit(self.path)
            known, body, kind = url.path == "/v1/snapshot", NO_MORE, "application/json"
            if known and MEDIA_TYPE in self.headers.get("accept", ""):
                body, kind = picture.body(parse_qs(url.query).get("have", [""])[0]), MEDIA_TYPE
            elif known:
                body = picture.now().model_dump_json().encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, *args: object) -> None:
            return

    return Handler
