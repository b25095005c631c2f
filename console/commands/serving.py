"""`serve`: the model server's own child program, in the foreground, with a TCP port in front of its Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from console import diagnostics
from console.commands.admin_socket import request
from console.commands.model_source import bundle_of, on_disk
from console.commands.serving_table import serving_table
from console.output import Outcome
from state.words import CHILD_PROTOCOL, ERRORS_BY_EXIT, ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

MODULE = "engine.serving.server"
STOP_GRACE_S = 40.0
CHUNK = 64 * 1024
PR_SET_PDEATHSIG = 1


def serve(
    context: Context,
    *,
    model: str,
    listen: str,
    socket_path: Path | None,
    threads: int,
    allow_faults: bool,
    backend: str | None,
    settings: tuple[str, ...],
    jobs: Path | None,
    argv: tuple[str, ...],
    meta: Path | None = None,
) -> Outcome:
    """Serve until Ctrl-C or TERM. Raises what kept the model from being served."""
    serving = serving_table(backend, settings, argv)
    if backend in (None, "torch"):
        bundle, release_id, digest = bundle_of(context, model, meta)
    else:
        bundle, release_id, digest = on_disk(context, model)
    address = None if socket_path is not None else _address(listen)
    if socket_path is not None and socket_path.exists():
        raise UsageError(f"{socket_path} is there already", hint="name a path that does not exist")
    with tempfile.TemporaryDirectory(prefix="airboss-serve-") as scratch:
        inner = socket_path or Path(scratch) / "model.sock"
        spec = Path(scratch) / "serve.spec.json"
        payload = {
            "bundle": str(bundle),
            "service": release_id,
            "env": "",
            "release_id": release_id,
            "threads": threads,
            "allow_faults": allow_faults,
            "serving": serving,
            "jobs_dir": str(jobs.absolute()) if jobs is not None else None,
        }
        spec.write_text(
            json.dumps(
                {
                    "spawn_id": "serve",
                    "kind": "model",
                    "run_dir": scratch,
                    "socket": str(inner.absolute()),
                    "digest": digest,
                    "payload": payload,
                    "protocol": CHILD_PROTOCOL,
                }
            ),
            encoding="utf-8",
        )
        return Outcome.printed(asyncio.run(_run(spec, str(inner.absolute()), address, release_id)))


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {listen}: not HOST:PORT", hint="for example --listen 127.0.0.1:8000")
    return host.strip("[]"), int(port)


async def _run(spec: Path, inner: str, address: tuple[str, int] | None, name: str) -> ExitCode:
    server = None
    if address is not None:
        server = await _relay(inner, address)
        host, port = server.sockets[0].getsockname()[:2]
        shown = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    else:
        shown = inner
    child = start_child(spec)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        told = False
        while child.poll() is None and not stop.is_set():
            if not told and await asyncio.to_thread(_is_ready, inner):
                told = True
                diagnostics.note(f"{name} is served at {shown}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)
        return await _ended(child, stop.is_set())
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        if server is not None:
            server.close()


def start_child(spec: Path, module: str = MODULE) -> subprocess.Popen[bytes]:
    """The child, in its own session: Ctrl-C comes to us, and goes on to it as TERM, so that it drains once."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, str(spec)],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=_end_with_parent,
    )


def _end_with_parent() -> None:
    """In the child, before its program: TERM when the console dies, even by SIGKILL. Nobody would supervise it then."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


async def _ended(child: subprocess.Popen[bytes], was_told: bool) -> ExitCode:
    if was_told and child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(child.wait, STOP_GRACE_S)
    code = child.poll()
    if was_told or code == 0:
        return ExitCode.OK
    kind = ERRORS_BY_EXIT.get(code or 1, OperationFailed)
    raise kind(f"the model server ended with {code}", hint="what it wrote above says why")


def _is_ready(inner: str) -> bool:
    try:
        return request(inner, "GET", "/ready", timeout_s=1.0)[0] == 200
    except OSError:
        return False


async def _relay(inner: str, address: tuple[str, int]) -> asyncio.Server:
    """Pass every connection to `address` on to the Unix socket, byte for byte."""

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(inner)
        except OSError:
            # Not listening yet, or gone: the client sees a closed connection, as with any server that starts.
            writer.close()
            return
        # A client whose machine is gone says nothing more; the kernel asks, and ends the connection for us.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))

    try:
        return await asyncio.start_server(meet, *address)
    except OSError as error:
        raise UsageError(
            f"--listen {address[0]}:{address[1]}: {os.strerror(error.errno) if error.errno else error}",
            hint="choose another port; 0 takes a free one",
            code="port_in_use",
        ) from error


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except (ConnectionError, OSError):
        # One side hung up in the middle; closing the other side tells it so.
        writer.close()
        return
    writer.close()
