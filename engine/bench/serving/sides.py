"""The sides of a comparison as processes: servers that answer HTTP, workers that answer lines. All end with the run."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from adapters.local.child import ChildSpec
from engine.bench.programs import free_port
from state.words import OperationFailed, Unreachable

START_S = 90.0
ANSWER_S = 300.0
_STOP_S = 15.0
SERVICE = "bench"


@dataclass(frozen=True, slots=True)
class Server:
    """A model server under measurement, reached over TCP (`url`) or a Unix socket (`uds`)."""

    name: str
    url: str
    uds: str
    child: subprocess.Popen[bytes]
    model: str
    """What a request's `model` field must say."""

    def memory_bytes(self) -> int:
        """Proportional set size of the server and its children: pages shared with others count in part."""
        root = psutil.Process(self.child.pid)
        return sum(int(process.memory_full_info().pss) for process in (root, *root.children(recursive=True)))


class Worker:
    """A program that answers orders, a line of JSON each."""

    def __init__(self, name: str, child: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.child = child
        self._log = log
        self._unread = b""

    def ask(self, op: str, **order: Any) -> dict[str, Any]:
        """The answer to an order. Raises OperationFailed when the worker has ended, Unreachable when it is late."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps({"op": op, **order}).encode() + b"\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise OperationFailed(_ended(self.name, self.child, self._log)) from None
        answer: dict[str, Any] = json.loads(self._line(time.monotonic() + ANSWER_S))
        return answer

    def _line(self, end: float) -> bytes:
        assert self.child.stdout is not None
        while b"\n" not in self._unread:
            ready, _, _ = select.select([self.child.stdout], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise Unreachable(f"{self.name} did not answer within {ANSWER_S:g} s")
            read = os.read(self.child.stdout.fileno(), 1 << 16)
            if not read:
                raise OperationFailed(_ended(self.name, self.child, self._log))
            self._unread += read
        line, _, self._unread = self._unread.partition(b"\n")
        return line


class Sides:
    """Starts them and sees that all of them end. Use as a context manager."""

    def __init__(self, threads: int, *, is_shared: bool = False) -> None:
        self.threads = threads
        self._is_shared = is_shared
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Sides:
        self.root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="airboss-bench-")))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def waiting(self) -> str:
        """How the others' threads wait for work, in words."""
        return (
            "all sleeping while they wait (the machine is shared)"
            if self._is_shared
            else "ours for a moment, the others' as they come"
        )

    def own_server(self, bundle: Path, serving: Mapping[str, Any], *, as_it_comes: bool = False) -> Server:
        """One of our model servers on a release, ready. `as_it_comes`: with the threads it takes when nobody says."""
        self._count += 1
        name = f"m{self._count}"
        payload = {
            "bundle": str(bundle),
            "service": SERVICE,
            "env": "bench",
            "threads": 0 if as_it_comes else self.threads,
        }
        settings = dict(serving) if as_it_comes else self._ours(serving)
        spec = ChildSpec(
            name, "model", self.root, str(self.root / f"{name}.sock"), "", {**payload, "serving": settings}
        )
        spec.write(self.root / f"{name}.spec.json")
        words = [sys.executable, "-P", "-m", "engine.serving.server", str(self.root / f"{name}.spec.json")]
        return self._server("ours", words, {}, uds=spec.socket, ready="/ready", model=SERVICE)

    def seed_server(self, root: Path) -> Server:
        """The seed's server as printed, on `ckpt.pt` in `root`."""
        port = free_port()
        words = [sys.executable, "-P", "-m", "engine.bench.serving.seed_server", str(root), str(port)]
        return self._server("seed's server", [*words, str(self.threads)], {}, port=port, ready="/health")

    def transformers_serve(self, python: Path, model: Path) -> Server:
        """`transformers serve` with continuous batching, beside the interpreter that has transformers."""
        port = free_port()
        words = [
            *(str(python), "-c", "from transformers.cli.transformers import main; main()", "serve", str(model)),
            *("--continuous-batching", "--dtype", "bfloat16", "--host", "127.0.0.1", "--port", str(port)),
        ]
        return self._server("transformers serve", words, {}, port=port, ready="/health", model=str(model))

    def vllm(self, python: Path, model: Path, context: int) -> Server:
        """vLLM's OpenAI server, compiled, as it comes."""
        port = free_port()
        words = [
            *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--dtype", "bfloat16"),
            *("--max-model-len", str(context), "--host", "127.0.0.1", "--port", str(port)),
        ]
        more = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"}
        more["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))[: self.threads]))
        return self._server("vllm", words, more, port=port, ready="/health", model=str(model), wait_s=300)

    def own_engine(self, bundle: Path, serving: Mapping[str, Any]) -> Worker:
        """Our engine without a server around it."""
        payload = {"bundle": str(bundle), "threads": self.threads, "serving": self._ours(serving)}
        return self._worker("our engine", [sys.executable, "-P", "-m", "engine.bench.serving.own", json.dumps(payload)])

    def peer(self, python: Path, model: Path, dtype: str) -> Worker:
        """transformers' `generate` in the interpreter `python`."""
        script = Path(__file__).with_name("peer.py")
        return self._worker("transformers", [str(python), "-P", str(script), str(model), dtype, str(self.threads)])

    def stop(self, server: Server) -> None:
        """End a server that is not needed any more, so that it takes no memory from the next."""
        _stop(server.child)

    def end(self, worker: Worker) -> None:
        """End a worker that is not needed any more."""
        _stop(worker.child)

    def _ours(self, serving: Mapping[str, Any]) -> dict[str, Any]:
        return {"exclusive_cpu": not self._is_shared, **serving}

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        plain = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(self.threads), "TOKENIZERS_PARALLELISM": "false"}
        # Spinning threads fare badly beside other programs (engine/serving/startup.py); there, everybody's sleep.
        calm = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"} if self._is_shared else {}
        return {**os.environ, **plain, **calm, **more}

    def _worker(self, name: str, words: Sequence[str]) -> Worker:
        self._count += 1
        log = self.root / f"{self._count}.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=self._environment({}),
                start_new_session=True,
            )  # fmt: skip
        self._stack.callback(_stop, child)
        return Worker(name, child, log)

    def _server(
        self,
        name: str,
        words: Sequence[str],
        more: Mapping[str, str],
        *,
        ready: str,
        port: int = 0,
        uds: str = "",
        model: str = "",
        wait_s: float = START_S,
    ) -> Server:
        self._count += 1
        log = self.root / f"{self._count}.log"
        with log.open("wb") as file:
            child = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=self._environment(more),
                start_new_session=True,
            )  # fmt: skip
        self._stack.callback(_stop, child)
        server = Server(name, f"http://127.0.0.1:{port}" if port else "http://model", uds, child, model)
        _await_ready(server, ready, log, wait_s)
        return server


def _await_ready(server: Server, path: str, log: Path, wait_s: float) -> None:
    end = time.monotonic() + wait_s
    transport = httpx.HTTPTransport(uds=server.uds) if server.uds else None
    with httpx.Client(transport=transport, base_url=server.url, timeout=10) as client:
        while time.monotonic() < end:
            if server.child.poll() is not None:
                raise OperationFailed(_ended(server.name, server.child, log))
            try:
                if client.get(path).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise Unreachable(f"{server.name} was not ready within {wait_s:g} s; its last words: {_last_words(log)}")


def _ended(name: str, child: subprocess.Popen[bytes], log: Path) -> str:
    return f"{name} ended with {child.wait(_STOP_S)}: {_last_words(log)}"


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " / ".join(line.strip()[:300] for line in lines[-3:]) or "none"


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a side: a worker by the end of its input, a server by SIGTERM; and by SIGKILL what stays."""
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            pipe.close()
    if child.poll() is None:
        child.terminate()
    try:
        child.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
