"""Asynchronous requests: taken now, answered when there is room, fetched by id.

Jobs wait outside the engine's queue, in three lines by class, and enter it as places of their class become free. Each
ends once; while one waits it costs nobody a place. With a directory they survive a restart of this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine.serving.front.answer import Answer
from engine.serving.front.calls import Call
from engine.serving.front.desk import Desk
from engine.serving.front.endpoints import ENDPOINTS
from engine.serving.front.errors import ApiError, ClientGone, invalid, unavailable
from engine.serving.front.job_store import Job, JobStatus, JobStore
from engine.serving.front.quotas import QueueClass
from engine.serving.front.reading import queue_class_of, read_json, size_of, tenant_of
from engine.serving.front.schemas import parse
from engine.serving.logs import log
from engine.serving.settings import ServingSettings

Guard = Callable[[Callable[[Request, str], Any]], Callable[[Request], Any]]
_ENGINE_RETRY_S = 1.0
_TRY_AGAIN = ("draining", "starting", "engine_unavailable", "engine_dead")
"""Codes that say something about this process, and nothing about the job."""


class JobBody(BaseModel):
    """POST /v1/jobs."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    endpoint: str
    """The path whose body this is: /v1/completions, /v1/chat/completions or /generate."""
    body: dict[str, Any]
    """What would be posted there; `stream` must be left out."""
    queue_class: str = Field(default=QueueClass.BATCH.value, alias="class")
    """interactive, batch or background."""


class Jobs:
    """The jobs of one model server. Lives in the event loop's thread."""

    def __init__(self, desk: Desk, store: JobStore) -> None:
        self._desk = desk
        self._store = store
        self._jobs: dict[str, Job] = {}
        self._waiting: dict[QueueClass, deque[Job]] = {queue_class: deque() for queue_class in QueueClass}
        self._calls: dict[str, Call] = {}
        """What waiting jobs ask for, read once: a job may be tried many times before there is room for it."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_pumping = False
        desk.intake.on_room = self.pump

    def routes(self, guarded: Guard) -> list[Route]:
        """The routes."""
        return [
            Route("/v1/jobs", guarded(self._submit), methods=["POST"]),
            Route("/v1/jobs", guarded(self._list)),
            Route("/v1/jobs/{job_id}", guarded(self._cancel), methods=["DELETE"]),
            Route("/v1/jobs/{job_id}", guarded(self._show)),
        ]

    async def recover(self) -> None:
        """Take up the jobs of an earlier process. Call once the engine serves."""
        for job in await self._store.load():
            if job.id in self._jobs:
                # Taken, and written down, since this process began to serve.
                continue
            self._jobs[job.id] = job
            if not job.status.is_over:
                self._waiting[job.queue_class].append(job)
        self.pump()

    async def close(self) -> None:
        """Wait until what ended is written. Jobs that wait stay on the disk, if there is one for them."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._store.close()

    def pump(self) -> None:
        """Let jobs in, as far as there is room: soon, not now, for whoever made the room is still at it."""
        if not self._is_pumping and any(self._waiting.values()):
            self._is_pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._is_pumping = False
        if self._desk.intake.is_draining:
            return
        try:
            settings = self._desk.card().settings
        except ApiError:
            self._pump_in(_ENGINE_RETRY_S)
            return
        for queue_class, line in self._waiting.items():
            limited: set[str] = set()
            for job in list(line):
                if not self._desk.intake.has_room(queue_class, settings):
                    break
                if job.tenant in limited:
                    continue
                try:
                    self._start(job, settings)
                except ApiError as error:
                    if error.status not in (429, 503):
                        self._leave(job)
                        self._task(job, self._fail(job, error))
                        continue
                    limited.add(job.tenant)
                    self._pump_in(error.retry_after_s or _ENGINE_RETRY_S)

    def _pump_in(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._timer is not None and self._timer.when() > loop.time():
            if self._timer.when() <= loop.time() + delay_s:
                return
            self._timer.cancel()
        self._timer = loop.call_later(delay_s, self.pump)

    def _start(self, job: Job, settings: ServingSettings) -> None:
        call = self._call(job)
        answer = self._desk.open(
            ENDPOINTS[job.endpoint],
            call,
            request_id=job.id,
            deadline_s=settings.job_deadline_s,
            tenant=job.tenant,
            queue_class=job.queue_class,
        )
        self._leave(job)
        job.status, job.started_at = JobStatus.RUNNING, time.time()
        self._task(job, self._run(job, answer))

    def _call(self, job: Job) -> Call:
        """What a job asks for. Raises ApiError when a later release cannot give it."""
        call = self._calls.get(job.id)
        if call is None:
            endpoint = ENDPOINTS.get(job.endpoint)
            if endpoint is None:
                raise invalid(f"there is no endpoint {job.endpoint[:80]!r} any more", "endpoint")
            call = self._calls[job.id] = self._desk.read(endpoint, job.body)
        return call

    def _leave(self, job: Job) -> None:
        """The job waits no longer."""
        self._calls.pop(job.id, None)
        with contextlib.suppress(ValueError):
            self._waiting[job.queue_class].remove(job)

    def _task(self, job: Job, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[job.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))

    async def _fail(self, job: Job, error: ApiError) -> None:
        self._ended(job, JobStatus.FAILED, error.status, error.body())
        await self._save_end(job)

    async def _run(self, job: Job, answer: Answer) -> None:
        try:
            body = await answer.whole()
        except ApiError as error:
            if error.code in _TRY_AGAIN and self._store.is_kept:
                # Its file still says that it waits: the next process takes it up.
                job.status, job.started_at = JobStatus.QUEUED, None
                return
            self._ended(job, JobStatus.FAILED, error.status, error.body())
        except (asyncio.CancelledError, ClientGone):
            answer.end(499, "cancelled")
            self._ended(job, JobStatus.CANCELLED)
        else:
            self._ended(job, JobStatus.COMPLETED, 200, body)
        await self._save_end(job)

    async def _save_end(self, job: Job) -> None:
        try:
            await self._store.save(job)
        except OSError as error:
            log("job_not_kept", job=job.id, reason=str(error))

    def _ended(self, job: Job, status: JobStatus, code: int = 0, body: dict[str, Any] | None = None) -> None:
        job.status, job.finished_at = status, time.time()
        job.response = {"status_code": code, "body": body} if body is not None else None
        self._sweep(self._desk.settings)

    def _sweep(self, settings: ServingSettings) -> None:
        """Forget results that are too old or too many."""
        oldest = time.time() - settings.job_result_ttl_s
        over = sorted((job for job in self._jobs.values() if job.finished_at), key=lambda job: job.finished_at or 0.0)
        excess = len(over) - settings.max_job_results
        for at, job in enumerate(over):
            if at < excess or (job.finished_at or 0.0) < oldest:
                del self._jobs[job.id]
                self._store.forget(job)

    async def _submit(self, request: Request, request_id: str) -> Response:
        asked = parse(JobBody, await read_json(request))
        endpoint = ENDPOINTS.get(asked.endpoint)
        if endpoint is None:
            raise invalid(f"there is no endpoint {asked.endpoint[:80]!r}; there are {', '.join(ENDPOINTS)}", "endpoint")
        queue_class = queue_class_of(asked.queue_class, "class")
        call = await self._desk.read_aside(endpoint, asked.body, size_of(request))
        if call.stream:
            raise invalid("a job's answer is fetched when it is done: leave stream out", "body.stream")
        settings = self._desk.settings
        self._sweep(settings)
        if self._desk.intake.is_draining:
            raise unavailable(
                "this replica is shutting down; ask another", "draining", retry_after_s=1, rejection="draining"
            )
        if sum(1 for job in self._jobs.values() if not job.status.is_over) >= settings.max_jobs:
            raise unavailable(
                f"{settings.max_jobs} jobs wait or run here already; try again later",
                "too_many_jobs",
                retry_after_s=5,
                rejection="queue_full",
            )
        job = Job(
            id=f"job-{secrets.token_hex(8)}",
            endpoint=asked.endpoint,
            queue_class=queue_class,
            tenant=tenant_of(request) or call.user,
            body=asked.body,
            created_at=time.time(),
        )
        self._jobs[job.id] = job
        try:
            await self._store.save(job)
        except OSError as error:
            self._jobs.pop(job.id, None)
            raise unavailable(
                f"the job could not be written down ({error.strerror}); try again later", "disk", retry_after_s=5
            ) from error
        log("job", job=job.id, request_id=request_id, route=job.endpoint, **{"class": job.queue_class})
        if not job.status.is_over:
            self._calls[job.id] = call
            self._waiting[queue_class].append(job)
        self.pump()
        headers = {"location": f"/v1/jobs/{job.id}", "x-request-id": request_id}
        return JSONResponse(job.view(settings.job_result_ttl_s, with_response=False), 202, headers)

    async def _list(self, request: Request, request_id: str) -> Response:
        settings, tenant = self._desk.settings, tenant_of(request)
        self._sweep(settings)
        seen = [job for job in self._jobs.values() if not tenant or job.tenant == tenant]
        data = [job.view(settings.job_result_ttl_s, with_response=False) for job in seen]
        return JSONResponse({"object": "list", "data": data}, headers={"x-request-id": request_id})

    async def _show(self, request: Request, request_id: str) -> Response:
        job = self._find(request)
        view = job.view(self._desk.settings.job_result_ttl_s, with_response=True)
        return JSONResponse(view, headers={"x-request-id": request_id})

    async def _cancel(self, request: Request, request_id: str) -> Response:
        job = self._find(request)
        task = self._tasks.get(job.id)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        elif not job.status.is_over:
            self._leave(job)
            self._ended(job, JobStatus.CANCELLED)
            with contextlib.suppress(OSError):
                await self._store.save(job)
        view = job.view(self._desk.settings.job_result_ttl_s, with_response=True)
        return JSONResponse(view, headers={"x-request-id": request_id})

    def _find(self, request: Request) -> Job:
        """The job of the path, if it is the caller's."""
        self._sweep(self._desk.settings)
        job, tenant = self._jobs.get(str(request.path_params["job_id"])), tenant_of(request)
        if job is None or (tenant and job.tenant != tenant):
            raise invalid(
                "there is no such job here: it never was, its result expired, or another replica has it",
                code="not_found",
                status=404,
            )
        return job
