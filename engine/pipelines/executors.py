"""Which executor a stage's settings name, and what the engine does about work that its stage's process has left going."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from adapters.executing import StageExecutor, Work
from adapters.local.commands import LocalCommands

log = logging.getLogger(__name__)


def executor_of(settings: Mapping[str, Any], workspace: Path, say: Callable[..., None]) -> StageExecutor:
    """The executor of a stage with these settings (`StageSpec.executor`); `say` puts facts into the stage's log."""
    if not settings:
        return LocalCommands(say)
    from adapters.kubernetes.jobs import KubeJobs  # a local stage starts without these
    from state.job_config import JobPods

    return KubeJobs(JobPods.model_validate(settings), workspace, say)


async def end_elsewhere(payload: Mapping[str, Any]) -> None:
    """Delete what the stage of this spec has left going outside this host. Raises Unreachable, Denied."""
    settings = payload.get("executor")
    if not settings:
        return
    from adapters.kubernetes.jobs import KubeJobs
    from state.job_config import JobPods

    workspace = Path(str(payload["context"]["workspace"]))
    work = Work(
        str(payload["run_id"]), str(payload["stage"]), str(payload["key"]), int(payload["attempt"]), workspace, ".", ()
    )
    if count := await KubeJobs(JobPods.model_validate(settings), workspace, lambda **facts: None).end(work):
        log.warning("%s/%s: %d Jobs were left going; they are deleted", work.run_id, work.stage, count)
