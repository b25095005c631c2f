"""The foreign server as a process: started under a keeper, its words into our log, its end told with its last ones."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque

from adapters.local import pidfd
from engine.serving.backend import keeper
from engine.serving.backend.launch import Launch, inherited_environment
from engine.serving.logs import log

TAIL_LINES = 12
LINE_BYTES = 2000
LINES_A_SECOND = 50
"""Of its output, so many go into our log; the rest is counted. An access log at full rate would drown everything."""
_NAMES_ERROR = re.compile(r"\b\w*(Error|Exception)\b: \S|\b(FATAL|fatal|panic)\b")
KILL_MARGIN_S = 7.0
"""What the keeper may need beyond the grace to see that everything is gone."""


class Foreign:
    """One foreign server, from its start to its end. Used on the event loop that `start` ran on."""

    def __init__(self, launch: Launch, stop_grace_s: float) -> None:
        self._launch = launch
        self._grace_s = stop_grace_s
        self._error = ""
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._reading: asyncio.Task[None] | None = None
        self._second = 0
        self._shown = self._hidden = 0
        self.ended = asyncio.Event()
        """Set once the process, and all it had started, are gone."""

    def start(self) -> None:
        """Start it, with the event loop running; what it says and how it ends is heard from now on."""
        read_end, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(self._grace_s), *self._launch.argv],
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**inherited_environment(), "PYTHONUNBUFFERED": "1", **self._launch.env},
                start_new_session=True,
            )
        finally:
            os.close(read_end)
        self._reading = asyncio.create_task(self._read(), name="backend's words")

    @property
    def pid(self) -> int:
        """The keeper's pid; the server is its child. 0 before the start."""
        return self._process.pid if self._process is not None else 0

    async def stop(self) -> None:
        """SIGTERM, and after the grace SIGKILL, to all of it. Returns once it is gone."""
        if self._process is None or self._reading is None:
            return
        if not self.ended.is_set():
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), self._grace_s + KILL_MARGIN_S)
        os.close(self._lifeline)
        if not self.ended.is_set():
            self._process.kill()
        await self._reading

    def how_it_ended(self) -> str:
        """The end in words, with the last lines it wrote."""
        code = self._process.returncode if self._process is not None else None
        if code is None:
            said = "has not ended"
        elif code < 0:
            said = f"was killed by {signal.Signals(-code).name}"
        else:
            said = f"ended with code {code}"
        if not self._tail:
            return f"{said}, without a word"
        # A program that dies of an error often goes on talking: what it said of the error may be far up.
        error = f"; its last error: {self._error}" if self._error and self._error not in self._tail else ""
        return f"{said}{error}; its last words: {' | '.join(self._tail)}"

    def last_words(self) -> str:
        """The last lines it wrote, on one."""
        return " | ".join(self._tail)

    async def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._process.stdout
        )
        partial = b""
        while data := await reader.read(65536):
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                self._hear(line)
            if len(partial) > LINE_BYTES:
                self._hear(partial)
                partial = b""
        if partial:
            self._hear(partial)
        transport.close()
        # Its output is closed by everyone who held it, so that it is gone or going; a pidfd tells without polling.
        await pidfd.ended(self._process.pid)
        self._process.wait()
        self.ended.set()

    def _hear(self, line: bytes) -> None:
        text = line[:LINE_BYTES].decode("utf-8", "backslashreplace").rstrip()
        if not text:
            return
        self._tail.append(text)
        if _NAMES_ERROR.search(text):
            self._error = text
        second = int(time.monotonic())
        if second != self._second:
            if self._hidden:
                log("backend_lines_left_out", lines=self._hidden)
            self._second, self._shown, self._hidden = second, 0, 0
        if self._shown < LINES_A_SECOND:
            self._shown += 1
            log("backend", line=text)
        else:
            self._hidden += 1
