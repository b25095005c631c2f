"""Jobs on the disk: one file each, so that a restart of the model server loses none. Without a directory: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from adapters.local.child import write_json
from engine.serving.front.quotas import QueueClass
from engine.serving.logs import log
from state.words import OperationFailed


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


class Job(BaseModel):
    """One asynchronous request, and its answer once there is one. Times are Unix seconds."""

    model_config = ConfigDict(validate_assignment=False)

    id: str = Field(pattern="^job-[0-9a-f]{16}$")
    endpoint: str
    queue_class: QueueClass
    tenant: str
    body: dict[str, Any]
    status: JobStatus = JobStatus.QUEUED
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    response: dict[str, Any] | None = None
    """{"status_code", "body"}, as the endpoint itself would have answered."""

    def view(self, ttl_s: float, *, with_response: bool) -> dict[str, Any]:
        """What a caller sees of it. The body stays here."""
        seen: dict[str, Any] = {
            "id": self.id,
            "object": "job",
            "endpoint": self.endpoint,
            "class": self.queue_class,
            "status": self.status,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "expires_at": self.finished_at + ttl_s if self.finished_at else None,
        }
        return {**seen, "response": self.response} if with_response else seen


class JobStore:
    """Files of jobs in a directory that only this user may read. Writing happens in a thread, in order."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="jobs")
        self._held: int | None = None

    @property
    def is_kept(self) -> bool:
        """Jobs survive a restart."""
        return self._directory is not None

    async def load(self) -> list[Job]:
        """The jobs of an earlier process, oldest first; those that were running are queued again.

        Raises OperationFailed when the directory cannot be used, or another server uses it.
        """
        if self._directory is None:
            return []
        loop = asyncio.get_running_loop()
        try:
            self._held = await loop.run_in_executor(self._writer, _lock, self._directory)
            return await loop.run_in_executor(self._writer, _load, self._directory)
        except OSError as error:
            raise OperationFailed(
                f"jobs cannot be kept in {self._directory}: {error.strerror}", hint="name another directory, or none"
            ) from error

    async def save(self, job: Job) -> None:
        """Write the job as it is now. Raises OSError when the disk does not take it."""
        if self._directory is not None:
            path, value = self._path(job.id), job.model_dump(mode="json")
            await asyncio.get_running_loop().run_in_executor(self._writer, write_json, path, value)

    def forget(self, job: Job) -> None:
        """Remove the job's file."""
        if self._directory is not None:
            self._writer.submit(_unlink, self._path(job.id))

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.shutdown(wait=True)
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def _path(self, job_id: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{job_id}.json"


def _lock(directory: Path) -> int:
    """Own the directory for as long as this process lives. Raises OperationFailed when another one does."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise OperationFailed(
            f"another model server keeps its jobs in {directory}", hint="give each server a directory of its own"
        ) from error
    return lock


def _load(directory: Path) -> list[Job]:
    jobs = []
    for path in directory.glob("job-*.json"):
        try:
            job = Job.model_validate(json.loads(path.read_bytes()))
        except (OSError, ValueError, RecursionError) as error:
            log("job_unreadable", file=str(path), reason=str(error).splitlines()[0])
            continue
        if not job.status.is_over:
            job.status, job.started_at = JobStatus.QUEUED, None
        jobs.append(job)
    return sorted(jobs, key=lambda job: job.created_at)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
