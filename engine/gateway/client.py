"""Speaking to one gateway worker: its admin socket, and the socket that hands the public port over."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from engine.gateway.table import RoutingTable, parse_table
from state.words import AirbossError, Conflict, OperationFailed, Unreachable, UsageError

TIMEOUT_S = 5.0
_ERROR_BY_STATUS: dict[int, type[AirbossError]] = {400: UsageError, 409: Conflict}


class GatewayAdmin:
    """The admin protocol of the worker at Unix socket `path`. Use as an async context manager, or call `close`."""

    def __init__(self, path: str | Path, timeout_s: float = TIMEOUT_S) -> None:
        self.path = str(path)
        # No TLS here: without verify=False the transport would read all root certificates, 35 ms of every table put.
        transport = httpx.AsyncHTTPTransport(uds=self.path, verify=False)
        self._http = httpx.AsyncClient(
            transport=transport, base_url="http://gateway", timeout=timeout_s, trust_env=False
        )

    async def __aenter__(self) -> GatewayAdmin:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        await self._http.aclose()

    async def handshake(self) -> dict[str, Any]:
        """Identity, revision, in flight, draining."""
        return await self._json("GET", "/admin/handshake")

    async def table(self) -> RoutingTable | None:
        """The table served, None when there is none."""
        answer = await self._ask("GET", "/admin/table")
        if answer.status_code == 404:
            return None
        return parse_table(self._checked(answer).content)

    async def put_table(self, table: RoutingTable | Mapping[str, Any]) -> dict[str, Any]:
        """Serve `table`; returns {"revision", "spawn_id", "unchanged", "kept", "kept_error"}.

        Raises Conflict when it is not newer than the one served, UsageError when it is refused, Unreachable.
        """
        body = table.to_json() if isinstance(table, RoutingTable) else dict(table)
        return await self._json("PUT", "/admin/table", json=body)

    async def counts(self, after: int = 0) -> dict[str, Any]:
        """{"boot_id", "snapshots"}: those later than `after`."""
        return await self._json("GET", "/admin/counts", params={"after": after})

    async def health(self) -> list[dict[str, Any]]:
        """Every replica as the worker sees it."""
        replicas: list[dict[str, Any]] = (await self._json("GET", "/admin/health"))["replicas"]
        return replicas

    async def metrics(self) -> str:
        """The worker's Prometheus page."""
        return self._checked(await self._ask("GET", "/metrics")).text

    async def drain(self) -> dict[str, Any]:
        """Have the worker finish what it has and leave."""
        return await self._json("POST", "/admin/drain")

    async def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        body: dict[str, Any] = self._checked(await self._ask(method, path, **options)).json()
        return body

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(
                f"the gateway worker at {self.path} did not answer {method} {path}: {type(error).__name__}: {error}",
                hint="`airboss status` shows which workers live",
            ) from error

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        if answer.is_success:
            return answer
        try:
            error: dict[str, Any] = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            error = {"message": f"the gateway worker at {self.path} answered {answer.status_code}"}
        kind = _ERROR_BY_STATUS.get(answer.status_code, OperationFailed)
        raise kind(str(error.get("message")), hint=str(error.get("hint", "")), code=str(error.get("code", "")))


def fetch_listen_fd(fd_socket_path: str | Path, timeout_s: float = TIMEOUT_S) -> int:
    """The public listening socket's descriptor, from a living worker; the caller owns and closes it.

    It does not survive exec unless passed on (`pass_fds`). Raises Unreachable.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout_s)
        try:
            asking.connect(str(fd_socket_path))
            _, fds, _, _ = socket.recv_fds(asking, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise Unreachable(f"the gateway worker at {fd_socket_path} handed no port over: {error}") from error
    if not fds:
        raise Unreachable(f"the gateway worker at {fd_socket_path} refused to hand its port over to uid {os.getuid()}")
    return fds[0]
