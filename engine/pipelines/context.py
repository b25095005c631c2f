"""What a run is told of the world it begins in: its service, the release to beat, the code's commit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from state.models import Release, TrackState
from state.words import Track

GIT_TIMEOUT_S = 5.0


def run_context(session: Session, service: str, workspace: Path | None = None) -> dict[str, Any]:
    """The context of a new run for `service`; `baseline` is the live release, else the newest that was not rejected."""
    live = session.exec(
        select(TrackState).where(TrackState.service == service, TrackState.track == Track.STABLE)
    ).first()
    baseline = session.get(Release, live.release_id) if live else None
    if baseline is None:
        query = select(Release).where(Release.service == service, Release.rejected_reason == "")
        baseline = session.exec(query.order_by(col(Release.created_at).desc())).first()
    return {
        "service": service,
        "baseline": None
        if baseline is None
        else {
            "release_id": baseline.id,
            "bundle_path": baseline.bundle_path,
            "digest": baseline.digest,
            "metrics": baseline.metrics,
        },
        "git_commit": git_commit(workspace) if workspace else "",
    }


def git_commit(directory: Path) -> str:
    """The commit checked out at `directory`, with `-dirty` when files differ; "" outside a repository."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(
                ["git", "-C", str(directory), *words],
                capture_output=True,
                text=True,
                timeout=GIT_TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and git("status", "--porcelain", "--untracked-files=no") else commit
