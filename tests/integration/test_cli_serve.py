"""`airboss serve`: one model server in the foreground, on TCP and on a Unix socket, until it is told to stop."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from bundles import CHARS, gpt_bundle

from console.commands.admin_socket import request
from engine.serving.models.gpt import GPTConfig

AIRBOSS = str(Path(sys.executable).with_name("airboss"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A release of a small random model."""
    root = tmp_path / "bundle"
    gpt_bundle(root, GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=32, vocab_size=len(CHARS)))
    return root


class Served:
    """A running `airboss serve` and what it said."""

    def __init__(self, log: Path, *words: str) -> None:
        self.log = log
        with log.open("w") as err:
            self.process = subprocess.Popen([AIRBOSS, "serve", *words], stdin=subprocess.DEVNULL, stderr=err, cwd=log.parent,
                                            env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip

    def address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := re.search(r"is served at (\S+)", self.log.read_text()):
                return found.group(1)
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "serve.log"


def test_it_answers_on_a_free_port_and_ends_in_order(bundle: Path, log: Path) -> None:
    served = Served(log, str(bundle), "--listen", "127.0.0.1:0")
    try:
        body = json.dumps({"prompt": "abc", "max_tokens": 3}).encode()
        asked = urllib.request.Request(served.address() + "/generate", body, {"Content-Type": "application/json"})
        for _ in range(2):
            with urllib.request.urlopen(asked, timeout=20) as answer:
                assert json.load(answer)["tokens_generated"] == 3
        served.process.send_signal(signal.SIGINT)
        assert served.process.wait(30) == 0
    finally:
        served.process.kill()


def test_it_answers_on_a_unix_socket(bundle: Path, log: Path, tmp_path: Path) -> None:
    served = Served(log, str(bundle), "--socket", str(tmp_path / "m.sock"))
    try:
        assert request(served.address(), "GET", "/ready")[0] == 200
        served.process.terminate()
        assert served.process.wait(30) == 0
        assert not (tmp_path / "m.sock").exists()
    finally:
        served.process.kill()


def test_the_model_server_does_not_outlive_a_killed_console(bundle: Path, log: Path) -> None:
    served = Served(log, str(bundle), "--listen", "127.0.0.1:0")
    served.address()
    served.process.kill()
    served.process.wait()
    deadline = time.monotonic() + 20
    while '"stopped"' not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_an_altered_bundle_is_never_served(bundle: Path, log: Path) -> None:
    (bundle / "config.json").write_text((bundle / "config.json").read_text() + " ")
    served = Served(log, str(bundle), "--listen", "127.0.0.1:0")
    assert served.process.wait(60) != 0
    assert "is served at" not in log.read_text()
    assert "config.json" in log.read_text()


def test_what_is_no_bundle_is_a_sentence(log: Path, tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text("")
    served = Served(log, "charlm-9")
    assert served.process.wait(30) == 2
    assert "neither a release" in log.read_text()
