"""Fixtures of the kill tests; what they are made of is in chaos_workspace.py."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

# Test files are not a package: what they share is found beside them.
sys.path.insert(0, str(Path(__file__).parent))

from chaos_workspace import Workspace, make_template, opened
from nursery import Nursery

MakeWorkspace = Callable[..., Workspace]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state every workspace begins with, made once."""
    return make_template(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    """Forks engines that die where they are told to."""
    with closing(Nursery()) as found:
        yield found


@pytest.fixture
def workspace(template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeWorkspace]:
    """Makes workspaces; at the end, passed or failed, nothing of them runs any more. CHAOS_KEEP=1 leaves their files."""
    # A short path: sockets live below it, and the kernel takes 107 bytes.
    home = Path(tempfile.mkdtemp(prefix="ab-", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("AIRBOSS_WORKSPACE", raising=False)
    try:
        with ExitStack() as stack:

            def make(name: str = "ws", **settings: Any) -> Workspace:
                return stack.enter_context(opened(home / name, template, **settings))

            yield make
    finally:
        if not os.environ.get("CHAOS_KEEP"):
            shutil.rmtree(home, ignore_errors=True)
