"""The registry worker: the one process that has MLflow loaded. `python -P -m adapters.registry_worker SPEC.json`.

It answers `GET /admin/handshake` from the first moment, while MLflow (seconds, 230 MB) is still being imported, and
`POST /call` {"method", "args"} one call at a time in one thread. Payload of its spec: {"mlflow_dir": path} or {"url", "root", "access", "timeout_s"}.
A registry that cannot be opened does not end the worker: each call tries again and says why it cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import signal
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from adapters.catalogue import Catalogue, CatalogueDetails, CataloguePage
from adapters.local import private_socket
from adapters.local.child import ChildSpec, run_child
from adapters.mlflow_access import TIMEOUT_S
from adapters.ports import ModelVersion, Registry
from adapters.registry_client import CALL_PATH, HANDSHAKE_PATH, registration_from_wire
from state.server_config import Credentials, ServerAccess
from state.words import AirbossError, ExitCode, OperationFailed, UsageError

if TYPE_CHECKING:
    from adapters.mlflow_registry import MlflowRegistry

DRAIN_S = 60
HTTP_STATUS = {
    ExitCode.USAGE: 400,
    ExitCode.UNREACHABLE: 503,
    ExitCode.TIMEOUT: 504,
    ExitCode.CONFLICT: 409,
    ExitCode.DENIED: 403,
}


class RegistryHost:
    """Opens the registry when it is first needed and makes calls on it, all in one thread."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        self._payload = payload
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")
        self._registry: MlflowRegistry | None = None
        self.trouble: str = ""

    @property
    def is_ready(self) -> bool:
        """MLflow is imported and its store is open."""
        return self._registry is not None

    def start(self) -> None:
        """Begin to open the registry; a trouble is kept for the handshake."""
        self._thread.submit(self._try_open)

    async def call(self, method: str, args: Mapping[str, Any]) -> Any:
        """The result of one call. Raises AirbossError."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._call, method, args)

    def stop(self) -> None:
        """Let the call that runs finish."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _call(self, method: str, args: Mapping[str, Any]) -> Any:
        began = time.monotonic()
        given = arguments(method, args)
        try:
            opened = self._open()
            result = getattr(opened.catalogue if method in READING else opened, method)(**given)
        except AirbossError as error:
            if error.code == "auth":
                self._registry = None  # opened anew by the next call, with the secrets as they are then
            raise
        _log("call", method=method, seconds=round(time.monotonic() - began, 3))
        is_value = isinstance(result, ModelVersion | CataloguePage | CatalogueDetails)
        return asdict(result) if is_value else result

    def _try_open(self) -> None:
        try:
            self._open()
        except AirbossError as error:
            _log("the registry cannot be opened", error=error.message, hint=error.hint)

    def _open(self) -> MlflowRegistry:
        if self._registry is not None:
            return self._registry
        began = time.monotonic()
        try:
            from adapters.mlflow_registry import MlflowRegistry

            self._registry = MlflowRegistry(**_place(self._payload))
        except AirbossError as error:
            self.trouble = error.message
            raise
        self.trouble = ""
        _log("registry open", seconds=round(time.monotonic() - began, 3))
        return self._registry


def _place(payload: Mapping[str, Any]) -> dict[str, Any]:
    """What the registry is opened with. Secrets are read now, so that a renewed one counts. Raises UsageError."""
    if directory := payload.get("mlflow_dir"):
        return {"mlflow_dir": Path(directory)}
    access = ServerAccess.model_validate(payload.get("access", {}))
    root = Path(payload.get("root", "."))
    timeout_s = float(payload.get("timeout_s", TIMEOUT_S))
    return {"url": payload["url"], "credentials": Credentials.of(access, root), "timeout_s": timeout_s}


READING = ("models", "versions", "details", "fetch")
"""The methods of the catalogue."""
METHODS = ("register", "aliases", "set_alias", "drop_alias", "tag", "version", *READING)
"""What may be called: the methods of both ports."""


def arguments(method: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in the port's own values. Raises UsageError when they are not that method's."""
    try:
        given = {"registration": registration_from_wire(args)} if method == "register" else dict(args)
        port = Catalogue if method in READING else Registry
        inspect.signature(getattr(port, method)).bind(None, **given)
    except (KeyError, TypeError) as error:
        raise UsageError(f"the call {method} was given {', '.join(args) or 'nothing'}: {error}") from error
    return given


def application(spec: ChildSpec, host: RegistryHost) -> Starlette:
    """The worker's HTTP surface."""

    async def handshake(_: Request) -> JSONResponse:
        return JSONResponse({**spec.identity(), "ready": host.is_ready, "error": host.trouble})

    async def call(request: Request) -> JSONResponse:
        try:
            method, args = _asked(await request.body())
            return JSONResponse({"result": await host.call(method, args)})
        except AirbossError as error:
            status = HTTP_STATUS.get(error.exit, 500)
            return JSONResponse({"error": error.as_dict()}, status_code=status)
        except Exception as error:  # MLflow's boundary: whatever it raises is an answer, and logged whole
            logging.getLogger(__name__).exception("a call failed in a way MLflow did not announce")
            unknown = OperationFailed(f"{type(error).__name__}: {error}", hint="see the registry worker's log")
            return JSONResponse({"error": unknown.as_dict()}, status_code=500)

    return Starlette(routes=[Route(HANDSHAKE_PATH, handshake), Route(CALL_PATH, call, methods=["POST"])])


def _asked(content: bytes) -> tuple[str, Mapping[str, Any]]:
    try:
        body = json.loads(content)
        method, args = body["method"], body["args"]
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError('a call is a JSON object {"method": …, "args": {…}}') from error
    if method not in METHODS or not isinstance(args, dict):
        raise UsageError(f"the registry has no call {method!r}", hint=f"it has {', '.join(METHODS)}")
    return method, args


class _Server(uvicorn.Server):
    """uvicorn that leaves signals to `_serve`: its own handling would end the process by the signal, not with 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _serve(spec: ChildSpec) -> None:
    host = RegistryHost(spec.payload)
    config = uvicorn.Config(
        application(spec, host),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=DRAIN_S,
    )
    server = _Server(config)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, lambda: setattr(server, "should_exit", True))
    with _listening(Path(spec.socket)) as listener:
        host.start()
        _log("listening", socket=spec.socket)
        await server.serve(sockets=[listener])
    await asyncio.to_thread(host.stop)
    _log("drained")


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A bound Unix socket. The lock that `run_child` holds makes a socket that is already there a stale one."""
    with private_socket.bind(path) as listener:
        listener.listen(64)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _log(what: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"at": round(time.time(), 3), "message": what, **facts}, default=str) + "\n")
    sys.stdout.flush()


def body(spec: ChildSpec) -> int:
    """Serve until SIGTERM."""
    warnings.simplefilter("ignore", FutureWarning)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    for noisy in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    asyncio.run(_serve(spec))
    return int(ExitCode.OK)


def main(argv: list[str]) -> int:
    """Be the registry worker that the spec describes."""
    return run_child(argv, body)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
