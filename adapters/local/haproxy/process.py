"""One HAProxy, kept running: started with a configuration, started again when it dies, replaced without a lost request."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from adapters.local import pidfd
from adapters.local.haproxy.config import Settings, backend_name, render, servers, shape
from adapters.local.haproxy.runtime import Runtime
from adapters.ports import Route
from state.words import OperationFailed, Unreachable

START_S = 5.0
RESTART_S = 0.5
"""Between two starts of one that dies at once; one that lived longer is started again immediately."""
PR_SET_PDEATHSIG = 1


class Haproxy:
    """The HAProxy of one worker. `settings_of` makes the settings for a generation's admin socket."""

    def __init__(
        self,
        binary: str,
        env: Mapping[str, str],
        directory: Path,
        socket_stem: str,
        settings_of: Callable[[str], Settings],
        on_restart: Callable[[str], None],
    ) -> None:
        self._binary = binary
        self._env = {**os.environ, **env}
        self._directory = directory
        self._socket_stem = socket_stem
        self._settings_of = settings_of
        self._on_restart = on_restart
        self._generation = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._old: list[subprocess.Popen[bytes]] = []
        self._runtime: Runtime | None = None
        self._meant: tuple[str, Sequence[Route]] | None = None
        self._shape: object = None
        self._watching: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the HAProxy that takes requests now; 0 when there is none."""
        return self._child.pid if self._child is not None and self._child.poll() is None else 0

    async def serve(self, default_env: str, routes: Sequence[Route]) -> None:
        """Serve these routes: by weights in the running one where nothing else changed, else by a new one in its place.

        Raises OperationFailed when HAProxy does not take them, Unreachable.
        """
        async with self._lock:
            before, self._meant = self._meant, (default_env, routes)
            try:
                await self._take(default_env, routes)
            except BaseException:
                self._meant = before  # one that dies is started with what was good
                raise

    async def _take(self, default_env: str, routes: Sequence[Route]) -> None:
        wanted = (default_env, shape(routes))
        if self._runtime is not None and self.pid and wanted == self._shape:
            await self._runtime.set_weights(
                {(backend_name(route), s.name): s.weight for route in routes for s in servers(route)}
            )
        else:
            await self._start()
            self._shape = wanted

    async def healthy(self) -> Mapping[tuple[str, str], bool]:
        """(backend, server) → whether it takes requests; none when there is no HAProxy yet."""
        return await self._runtime.healthy() if self._runtime is not None else {}

    async def drain(self, within_s: float) -> None:
        """Take no new connection, finish what there is, end."""
        if self._watching is not None:
            self._watching.cancel()
        everyone = [*self._old, *([self._child] if self._child is not None else [])]
        for child in everyone:
            with suppress(ProcessLookupError):
                child.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + within_s
        for child in everyone:
            while child.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            if child.poll() is None:
                child.kill()
            child.wait()

    async def _start(self) -> None:
        """Start one with the routes meant now. It takes the same listening socket, then tells the one before to finish."""
        assert self._meant is not None
        self._generation += 1
        socket = f"{self._socket_stem}{self._generation}"
        settings = self._settings_of(socket)
        path = self._directory / "haproxy.cfg"
        path.write_text(render(settings, *self._meant), encoding="utf-8")
        words = [self._binary, "-db", "-f", str(path)]
        if self.pid:
            words += ["-sf", str(self.pid)]
        log = self._directory / "haproxy.log"
        child = self._spawn(words, (settings.listen_fd, settings.log_fd), log)
        runtime = Runtime(socket)
        await self._until_up(child, runtime, log)
        if self._child is not None:
            self._old.append(self._child)
        self._old = [old for old in self._old if old.poll() is None]
        self._child, self._runtime = child, runtime
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch(), name="haproxy")

    def _spawn(self, words: Sequence[str], fds: Sequence[int], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self._env,
                pass_fds=fds, preexec_fn=_finish_with_parent,
            )  # fmt: skip

    async def _until_up(self, child: subprocess.Popen[bytes], runtime: Runtime, log: Path) -> None:
        deadline = time.monotonic() + START_S
        while child.poll() is None and time.monotonic() < deadline:
            with suppress(Unreachable):
                await runtime.ask("show version")
                return
            await asyncio.sleep(0.01)
        if child.poll() is None:
            child.kill()
        child.wait()
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = " / ".join([line for line in lines if "ALERT" in line] or lines[-2:])
        raise OperationFailed(
            f"HAProxy did not start: {said[:400]}", hint=f"its configuration is {log.parent}/haproxy.cfg"
        )

    async def _watch(self) -> None:
        """Start it again whenever it dies, with the routes and weights meant by then."""
        while True:
            child, began = self._child, time.monotonic()
            assert child is not None
            if child.poll() is None:  # not reaped, so that its number is nobody else's
                await pidfd.ended(child.pid)
                child.wait()
            if child is not self._child:
                continue  # it was replaced
            self._on_restart(f"HAProxy ended with {child.returncode}")
            if time.monotonic() - began < RESTART_S:
                await asyncio.sleep(RESTART_S)
            async with self._lock:
                try:
                    await self._start()
                except (OperationFailed, OSError) as error:  # the next turn, or the next table, tries again
                    self._on_restart(f"HAProxy could not be started again: {error}")


def _finish_with_parent() -> None:
    """In the child: finish and leave when the worker dies, even by SIGKILL. Nobody would set its weights then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
