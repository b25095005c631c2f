"""`service ask` and `load`: requests through a gateway's public address, here a small HTTP server in its place."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from state.paths import Paths

AIRBOSS = Path(sys.executable).with_name("airboss")
Run = Callable[..., Any]


class PublicServer(http.server.ThreadingHTTPServer):
    """Answers completions, and remembers what was asked."""

    daemon_threads = True
    status = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[dict[str, Any], str | None]] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: PublicServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((body, self.headers.get("x-airboss-env")))
        good = {"choices": [{"text": " be or \x1b[2Jnot"}], "usage": {"completion_tokens": 3}}
        bad = {"error": {"message": "nothing healthy", "type": "shed", "code": 503}}
        answer = json.dumps(good if self.server.status == 200 else bad).encode()
        self.send_response(self.server.status)
        for name, value in (("Content-Length", str(len(answer))), ("x-request-id", "r1-a"), ("x-airboss-release", "charlm-2"),
                            ("x-airboss-track", "stable"), ("x-airboss-revision", "12")):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def public(engine: Any, views: Any) -> Iterator[PublicServer]:
    """A gateway in name, at the address that the engine's status gives."""
    server = PublicServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    engine.answers["/v1/status"] = views["status"](gateway=f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_ask_prints_the_answer_and_on_stderr_who_gave_it(public: PublicServer, airboss: Run) -> None:
    ran = airboss("service", "ask", "chat", "To", "--env", "production", "--seed", "7", "--max-tokens", "5")
    assert (ran.code, ran.out) == (0, " be or \\x1b[2Jnot\n")
    assert "charlm-2 (stable)" in ran.err
    assert public.asked == [({"model": "chat", "prompt": "To", "max_tokens": 5, "seed": 7}, "production")]
    item = airboss("service", "ask", "chat", "To", "-o", "json").json["items"][0]
    assert (item["release"], item["track"], item["request_id"], item["usage"]) == (
        "charlm-2", "stable", "r1-a", {"completion_tokens": 3})  # fmt: skip


def test_ask_says_what_the_gateway_said(public: PublicServer, airboss: Run) -> None:
    public.status = 503
    ran = airboss("service", "ask", "chat", "To")
    assert ran.code == 3
    assert "chat answered 503: nothing healthy" in ran.err
    public.status = 404
    assert airboss("service", "ask", "chat", "To").code == 1


def test_ask_without_a_gateway(engine: Any, airboss: Run) -> None:
    ran = airboss("service", "ask", "chat", "To")
    assert ran.code == 3
    assert "the gateway at http://127.0.0.1:1 does not answer" in ran.err


def test_load_reports_by_track_and_release(public: PublicServer, airboss: Run) -> None:
    ran = airboss("load", "chat", "--env", "dev", "--rps", "40", "--duration", "1s", "--prompt", "hello", "-o", "json")
    assert ran.code == 0, ran.err
    report = ran.json["items"][0]
    assert report["sent"] == report["answered"] == len(public.asked) > 5
    assert report["by_track"]["stable"]["answered"] == report["sent"]
    assert {(body["prompt"], env) for body, env in public.asked} == {("hello", "dev")}


def test_load_that_meets_failures_exits_1(public: PublicServer, airboss: Run) -> None:
    public.status = 503
    ran = airboss("load", "chat", "--env", "dev", "--rps", "20", "--duration", "0.5s")
    assert ran.code == 1
    assert "nothing healthy" in ran.err


def test_load_on_a_protected_environment_takes_a_name_and_a_reason(public: PublicServer, airboss: Run) -> None:
    words = ("load", "chat", "--env", "production", "--rps", "20", "--duration", "0.3s")
    ran = airboss(*words, "--yes")
    assert ran.code == 2
    assert "--confirm-name chat --reason TEXT" in ran.err
    assert public.asked == []
    assert airboss(*words, "--yes", "--confirm-name", "chat", "--reason", "a drill").code == 0
    assert airboss("load", "nothing", "--rps", "1", "--duration", "1s").code == 2


def test_an_interrupted_load_still_reports(public: PublicServer, workspace: Paths, eventually: Run) -> None:
    process = subprocess.Popen([str(AIRBOSS), "load", "chat", "--env", "dev", "--rps", "20", "--duration", "60s"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    eventually(lambda: len(public.asked) > 3)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "answered" in out
