"""One real engine with its gateway, tiny model servers and users, for the strategies to be played on in turn."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Test files are not a package: the workspace that the kill tests are played on is found there.
sys.path.insert(0, str(Path(__file__).parent.parent / "chaos"))

from chaos_workspace import SERVICE, Workspace, make_template, opened

TOY = [sys.executable, "-P", "-m", "engine.bench.rollback.toy", "{port}", "{model}"]
RPS = 100.0


def toys(config: str) -> str:
    """The configuration with replicas that start in a moment, a judge that few requests convince, and a baseline."""
    served = f'[service.{SERVICE}.serving]\nbackend = "command"\ncommand = {json.dumps(TOY)}\n'
    for told, instead in (
        ("[policy.quick]\n", "[policy.quick]\nbaseline = true\n"),
        ("availability = 90.0", "availability = 60.0"),
        ("latency_share = 90.0", "latency_share = 60.0"),
        ("min_requests = 20", "min_requests = 10"),
    ):
        assert told in config, told
        config = config.replace(told, instead)
    return config + served


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace whose first release is live on two replicas, under load."""
    # A short path: sockets live below it, and the kernel takes 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="ab-", dir="/tmp"))
    before = {name: os.environ.get(name) for name in ("XDG_RUNTIME_DIR", "OMP_NUM_THREADS", "AIRBOSS_WORKSPACE")}
    os.environ.update(XDG_RUNTIME_DIR=str(home), OMP_NUM_THREADS="1")
    os.environ.pop("AIRBOSS_WORKSPACE", None)
    try:
        with opened(home / "ws", make_template(tmp_path_factory.mktemp("template")), replicas=2) as workspace:
            file = workspace.root / "airboss.toml"
            file.write_text(toys(file.read_text()))
            workspace.serve()
            workspace.users(RPS)
            yield workspace
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(home, ignore_errors=True)
