"""StageExecutor (adapters.executing) by Jobs of a cluster: made, followed to their end, gone on with when found, deleted on SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from adapters.executing import CommandFailed, Work
from adapters.kubernetes import carry, job_objects
from adapters.kubernetes.access import read_access
from adapters.kubernetes.client import KubeClient, Object
from adapters.kubernetes.job_logs import JobLogs
from adapters.kubernetes.objects import MANAGED_BY
from state.digests import text_sha256
from state.job_config import JobPods
from state.words import AirbossError, Conflict, Denied, OperationFailed, Unreachable, UsageError

LOOK_S = 1.0
LATE_S = 60.0
"""How long past its deadline a Job may take to be called ended before it is deleted."""


class KubeJobs:
    """Stages of one workspace as Jobs of one namespace."""

    def __init__(
        self,
        pods: JobPods,
        workspace: Path,
        say: Callable[..., None],
        *,
        look_s: float = LOOK_S,
        client: KubeClient | None = None,
    ) -> None:
        """`say` puts one line of facts into the stage's log; `look_s` is how often the Job is looked at."""
        self._pods, self._workspace, self._say, self._look_s = pods, workspace, say, look_s
        self._client = client or KubeClient(
            partial(read_access, pods.context, pods.kubeconfig, workspace), timeout_s=pods.timeout
        )
        self._place = text_sha256(f"{socket.gethostname()}:{workspace.resolve()}")[:16]
        self._author = f"{getpass.getuser()}@{socket.gethostname()}, airboss stage"

    def run(self, work: Work, clean: Callable[[], None]) -> None:
        """The work as a Job, to its end."""
        asyncio.run(self._until_told(work, clean))

    async def _until_told(self, work: Work, clean: Callable[[], None]) -> None:
        """Run, unless SIGTERM comes: then the Job goes, and this process with it."""
        doing = asyncio.create_task(self._run(work, clean))
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        telling = asyncio.create_task(told.wait())
        try:
            await asyncio.wait({doing, telling}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
                await self._delete_all(work)
                self._say(stage=work.stage, message="the stage was told to end; its Job is deleted")
                sys.stdout.flush()
                loop.remove_signal_handler(signal.SIGTERM)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)
            doing.result()
        finally:
            telling.cancel()
            await self._client.close()

    async def _run(self, work: Work, clean: Callable[[], None]) -> None:
        found = await self._found_patiently(work)
        if found is None:
            await asyncio.to_thread(clean)
            found = await self._start(work)
        name = str(found["metadata"]["name"])
        end = await self._follow(work, name)
        if end.failure:
            whose = f": {' && '.join(work.commands)}" if end.failure.startswith("the command") else ""
            raise CommandFailed(f"{end.failure}{whose}", hint=f"{end.hint} (Job {name})".strip())
        if self._pods.store:
            await asyncio.to_thread(self._fetch, work, name)
        await self._client.merge(self._path("jobs", name), {"metadata": {"labels": {job_objects.TAKEN: "true"}}})

    async def _found_patiently(self, work: Work) -> Object | None:
        """What goes on may be there while the API server is not: nothing is begun before it has answered."""
        until = time.monotonic() + work.timeout_s
        while True:
            try:
                return await self._found(work)
            except Unreachable as error:
                if time.monotonic() > until:
                    raise
                self._say(stage=work.stage, message="the cluster does not answer; it is asked again", why=error.message)
                await asyncio.sleep(self._look_s)

    async def _found(self, work: Work) -> Object | None:
        """The Job of this very work that an earlier process began; others of the stage are deleted: what they make is not wanted."""
        going: list[Object] = []
        for one in await self._of(work):
            labels = one["metadata"]["labels"]
            is_same = labels.get(job_objects.KEY) == work.key[:40] and job_objects.TAKEN not in labels
            ended = job_objects.end_of(one, (), self._pods)
            if is_same and (ended is None or not ended.failure) and "deletionTimestamp" not in one["metadata"]:
                going.append(one)
            elif ended is None:
                await self._client.delete(self._path("jobs", one["metadata"]["name"]))
        if not going:
            return None
        newest = max(going, key=lambda one: str(one["metadata"]["creationTimestamp"]))
        self._say(stage=work.stage, message="its Job was found and is gone on with", job=newest["metadata"]["name"])
        return newest

    async def _start(self, work: Work) -> Object:
        script = Path(carry.__file__).read_text(encoding="utf-8") if self._pods.store else ""
        wanted = job_objects.job(work, self._pods, self._place, self._author, script, (os.getuid(), os.getgid()))
        name = str(wanted["metadata"]["name"])
        if self._pods.store:
            await asyncio.to_thread(self._send, work, name)
        try:
            made = await self._client.create(self._path("jobs"), wanted)
        except (Conflict, Unreachable) as error:
            # The answer was lost, or this attempt's Job was made before: the name says that it is this one.
            there = await self._client.get(self._path("jobs", name))
            if there is None or (isinstance(error, Conflict) and job_objects.end_of(there, (), self._pods) is not None):
                raise
            made = there
        self._say(stage=work.stage, message="job", job=name, image=self._pods.image, namespace=self._pods.namespace)
        return made

    async def _follow(self, work: Work, name: str) -> job_objects.JobEnd:
        """Wait for the Job's end, its pods' words coming meanwhile. A silent API server is waited for: the Job goes on without it."""
        logs = JobLogs(self._client, self._path("pods"))
        until = time.monotonic() + work.timeout_s + LATE_S
        trouble = waiting = ""
        try:
            while True:
                try:
                    found = await self._client.get(self._path("jobs", name))
                    if found is None:
                        raise CommandFailed(
                            f"its Job {name} was deleted by somebody", hint="`airboss run retry` runs it anew"
                        )
                    pods, _ = await self._client.list(self._path("pods"), f"job-name={name}")
                    logs.follow(pods)
                    if (end := job_objects.end_of(found, pods, self._pods)) is not None:
                        await logs.drain()
                        if "Failed" not in str(found.get("status", {}).get("conditions")) and end.failure:
                            await self._client.delete(self._path("jobs", name))
                        return end
                    if (said := job_objects.waits_for(pods)) != waiting:
                        waiting = said
                        self._say(stage=work.stage, message="its pod waits" if said else "its pod runs", why=said)
                    trouble = ""
                except (Unreachable, Denied) as error:
                    if isinstance(error, Denied) and error.code != "kube_credentials":
                        raise
                    if error.message != trouble:
                        trouble = error.message
                        self._say(stage=work.stage, message="the cluster does not answer; the Job goes on", why=trouble)
                if time.monotonic() > until:
                    with contextlib.suppress(AirbossError):
                        await self._client.delete(self._path("jobs", name))
                    raise CommandFailed(f"its Job {name} did not end by its deadline", hint=trouble or "it is deleted")
                await asyncio.sleep(self._look_s)
        finally:
            await logs.close()

    async def _of(self, work: Work) -> list[Object]:
        labels = job_objects.labels_of(work, self._place)
        wanted = {name: labels[name] for name in (MANAGED_BY, job_objects.PLACE, job_objects.RUN, job_objects.STAGE)}
        items, _ = await self._client.list(self._path("jobs"), ",".join(f"{k}={v}" for k, v in wanted.items()))
        return items

    async def _delete_all(self, work: Work) -> int:
        """Delete the stage's Jobs that have not ended."""
        deleted = 0
        for one in await self._of(work):
            if job_objects.end_of(one, (), self._pods) is None:
                deleted += await self._client.delete(self._path("jobs", one["metadata"]["name"]))
        return deleted

    async def end(self, work: Work) -> int:
        """For the engine, once the stage's own process is gone: delete what it left going. Raises Unreachable, Denied."""
        try:
            return await self._delete_all(work)
        finally:
            await self._client.close()

    def _send(self, work: Work, name: str) -> None:
        with _carrying(str(self._pods.store)):
            carry.put(str(work.root), str(self._pods.store), f"{name}-in", work.takes, work.keeps)

    def _fetch(self, work: Work, name: str) -> None:
        with _carrying(str(self._pods.store)):
            carry.get(str(work.root), str(self._pods.store), f"{name}-out")

    def _path(self, resource: str, *rest: str) -> str:
        group = "apis/batch/v1" if resource == "jobs" else "api/v1"
        return "/".join(["", group, "namespaces", self._pods.namespace, resource, *rest])


@contextlib.contextmanager
def _carrying(url: str) -> Iterator[None]:
    """What can go wrong with an object store, as our errors."""
    try:
        yield
    except AirbossError:
        raise
    except ImportError as error:
        raise UsageError(
            f"{url}: {error}", hint="install the package beside airboss: it is fsspec's for this protocol"
        ) from error
    except ValueError as error:
        raise OperationFailed(f"{url}: {error}", hint="look at the path it names") from error
    except Exception as error:  # every store's client raises its own kinds
        raise Unreachable(f"{url}: {type(error).__name__}: {error}", hint="it is tried again") from error
