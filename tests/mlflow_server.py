"""A real `mlflow server` on a free port, and a proxy before it that can be made to fail in the ways proxies and servers do."""

from __future__ import annotations

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import httpx

from tests.monitoring_servers import free_port

DEADLINE_S = 240.0


@contextlib.contextmanager
def mlflow_server(home: Path) -> Iterator[str]:
    """The server's address; it has a SQLite store and its artifacts in `home`."""
    port = free_port()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{home}/m.db", "--artifacts-destination", str(home / "artifacts")]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                    break
            assert process.poll() is None and time.monotonic() < end, (home / "log").read_text()[-2000:]
            time.sleep(0.1)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # asked to end, it takes a quarter of a minute
        process.wait(30)


class Proxy:
    """Passes requests on to `target`, or does what `mode` says: down, slow, html, or a status code."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.mode = "ok"
        self.asked: list[str] = []
        """Path and query of each request, oldest first."""
        self.headers: list[dict[str, str]] = []
        self.released = threading.Event()
        """Lets those go that wait in mode `slow`."""
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    proxy: ClassVar[Proxy]

    def log_message(self, format: str, *args: object) -> None:
        return

    def _handle(self) -> None:
        proxy = self.proxy
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        proxy.asked.append(f"{self.command} {self.path}")
        proxy.headers.append({name.lower(): value for name, value in self.headers.items()})
        mode = proxy.mode
        if mode == "down":
            self.close_connection = True
            self.connection.close()
        elif mode == "slow":
            proxy.released.wait()
        elif mode == "html":
            self._answer(200, b"<html>please log in</html>", "text/html")
        elif mode.isdigit():
            self._answer(int(mode), b"something", "text/plain")
        else:
            self._pass_on(content)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _handle

    def _pass_on(self, content: bytes) -> None:
        sent = {n: v for n, v in self.headers.items() if n.lower() not in ("host", "content-length", "accept-encoding")}
        with httpx.Client(trust_env=False, timeout=30) as client:
            got = client.request(self.command, f"{self.proxy.target}{self.path}", content=content, headers=sent)
        self._answer(got.status_code, got.content, got.headers.get("content-type", "text/plain"))

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
