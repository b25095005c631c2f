"""Prometheus, promtool and Alertmanager of the tests' own, from Debian's packages, on free ports of loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

APT_LINE = "apt-get install prometheus prometheus-alertmanager"
REQUIRED = os.environ.get("AIRBOSS_REQUIRE_SERVERS") == "1"


def _lacks(*programs: str) -> bool:
    return not REQUIRED and any(shutil.which(program) is None for program in programs)


needs_prometheus = pytest.mark.skipif(_lacks("prometheus", "promtool"), reason=f"no Prometheus here: {APT_LINE}")
needs_alertmanager = pytest.mark.skipif(_lacks("prometheus-alertmanager"), reason=f"no Alertmanager here: {APT_LINE}")


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def free_ports_in_row(count: int) -> int:
    """The first of `count` ports in a row that nobody has now."""
    while True:
        first = free_port()
        with suppress(OSError):
            taken = [socket.create_server(("127.0.0.1", first + n)) for n in range(count)]
            for listener in taken:
                listener.close()
            return first


class Server:
    """A program that answers on `url` once it is ready."""

    def __init__(self, root: Path, port: int, command: list[str], ready: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._root, self._command, self._ready = root, command, ready
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with (self._root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._root
            )
        deadline = time.monotonic() + 30
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}{self._ready}", trust_env=False).status_code == 200:
                    return
            dead = self._process.poll() is not None
            assert not dead and time.monotonic() < deadline, (self._root / "log").read_text()[-2000:]
            time.sleep(0.05)

    def stop(self) -> None:
        """Kill it; its port refuses from now on."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def prometheus(
    root: Path, targets: list[str], *, every_s: int = 1, rules: Path | None = None, honor_labels: bool = False
) -> Server:
    """A Prometheus that scrapes `targets` each `every_s` seconds; with `honor_labels` a page's own job and instance stay."""
    root.mkdir(parents=True)
    shown = ", ".join(f"'{target}'" for target in targets)
    (root / "prometheus.yml").write_text(
        f"global: {{scrape_interval: {every_s}s, scrape_timeout: {every_s}s}}\n"
        + (f"rule_files: ['{rules}']\n" if rules else "")
        + f"scrape_configs:\n- job_name: airboss-gateway\n  honor_labels: {str(honor_labels).lower()}\n"
        f"  static_configs: [{{targets: [{shown}]}}]\n"
    )
    port = free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    return Server(root, port, ["prometheus", *options], "/-/ready")


def alertmanager(root: Path) -> Server:
    """An Alertmanager by itself, which tells nobody."""
    root.mkdir(parents=True)
    (root / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    port = free_port()
    options = ["--config.file=alertmanager.yml", "--storage.path=data", "--cluster.listen-address="]
    return Server(
        root, port, ["prometheus-alertmanager", *options, f"--web.listen-address=127.0.0.1:{port}"], "/-/ready"
    )
