"""The real `dvc`, where it is installed: on the PATH, or named by AIRBOSS_DVC. Its many packages stay out of our environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROGRAM = os.environ.get("AIRBOSS_DVC") or shutil.which("dvc")
ABSENT = "DVC is not here: install it in an environment of its own (pipx install dvc), or name it by AIRBOSS_DVC"


def may_be_skipped() -> bool:
    """No DVC is here, and its absence may be passed over: with AIRBOSS_REQUIRE_SERVERS=1 the tests run and fail."""
    return PROGRAM is None and os.environ.get("AIRBOSS_REQUIRE_SERVERS") != "1"


def dvc(project: Path, *words: str) -> str:
    """What DVC says in `project`; both streams. Fails with it where DVC does."""
    assert PROGRAM, ABSENT
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(project / ".dvc-site"), "NO_COLOR": "1"}
    done = subprocess.run(
        [PROGRAM, *words], cwd=project, env=env, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout
