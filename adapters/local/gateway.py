"""The local gateway: its public port, its workers, and the one routing table they all have.

The port is opened by the engine and inherited by every worker, so that it outlives each of them: connections queue while
a worker is replaced. After the engine's own restart a living worker hands it back.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from adapters.local.places import Slot
from adapters.local.probing import Visitor, probe_certificate, probe_key
from adapters.local.supervisor import Supervisor
from state.gateway_config import GatewayConfig
from state.secret import env_names, read_secret
from state.words import OperationFailed, Unreachable, UsageError

log = logging.getLogger("airboss.gateway")

MODULES = {"airboss": "engine.gateway.worker", "haproxy": "engine.gateway.haproxy.worker"}
BACKLOG = 1024
DRAIN_S = 20.0


class WorkerTable(Protocol):
    """A routing table as a worker serves it."""

    def to_json(self) -> dict[str, Any]:
        """As it crosses the wire."""


class WorkerAdmin(Protocol):
    """What is asked of one worker; the gateway's own client is one. It raises Unreachable and Conflict."""

    async def __aenter__(self) -> Self:
        """Open."""

    async def __aexit__(self, *exc: Any) -> None:
        """Close."""

    async def put_table(self, table: Mapping[str, Any], /) -> Any:
        """Serve `table` from now on."""

    async def table(self) -> WorkerTable | None:
        """The table served."""


class LocalGateway:
    """The workers on one public port. `admin` opens a worker's admin socket, `fetch_fd` takes the port back from one."""

    def __init__(
        self,
        supervisor: Supervisor,
        config: GatewayConfig,
        gateway_dir: Path,
        *,
        admin: Callable[[str], WorkerAdmin],
        fetch_fd: Callable[[str], int],
        root: Path,
    ) -> None:
        self.supervisor = supervisor
        self.access = config.access(str(root))
        self.config = config
        self.gateway_dir = gateway_dir
        self._admin = admin
        self._fetch_fd = fetch_fd
        self._listener: socket.socket | None = None
        self.address = ""
        self.probe = Visitor()

    async def start(self) -> None:
        """Have the port and all workers. Raises UsageError when the port is somebody else's, or a secret is missing."""
        if self.access.auth.jwt.secret:
            read_secret(self.access.auth.jwt.secret, Path(self.access.root))
        self.probe = self._visitor()
        self._listener = await self._port()
        host, port = self._listener.getsockname()[:2]
        scheme = "https" if self.config.tls_cert else "http"
        self.address = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        for index in range(self.wanted_workers):
            await self.supervisor.want(self._slot(index))

    def _visitor(self) -> Visitor:
        access = self.access
        certificate = Path(access.root) / access.tls_cert if access.tls_cert else None
        client = probe_certificate(self.gateway_dir) if access.tls_client_ca else None
        return Visitor(probe_key(self.gateway_dir), certificate, client)

    def workers(self) -> Sequence[tuple[str, str]]:
        """(spawn_id, admin socket path) of every worker that is ready."""
        return [(p.child.spec.spawn_id, p.child.spec.socket) for p in self.supervisor.of("gateway") if p.is_ready]

    @property
    def wanted_workers(self) -> int:
        """How many workers there should be. One drives HAProxy, which has threads of its own where it needs them."""
        return 1 if self.config.engine == "haproxy" else self.config.workers

    async def put(self, table: Mapping[str, Any]) -> None:
        """Give `table` to every ready worker; returns once all have acknowledged it.

        Raises Unreachable when none is ready or one does not acknowledge. A worker that starts later takes the newest
        table from the gateway's directory, and is given it again once it is ready.
        """
        workers = self.workers()
        if not workers:
            raise Unreachable("no gateway worker is up; the table waits for one")
        await asyncio.gather(*(self._put_one(path, table) for _, path in workers))

    async def tables(self) -> list[Mapping[str, Any]]:
        """The table of every ready worker. Raises Unreachable when one does not answer."""

        async def one(path: str) -> Mapping[str, Any]:
            async with self._admin(path) as admin:
                table = await admin.table()
                return table.to_json() if table is not None else {}

        return list(await asyncio.gather(*(one(path) for _, path in self.workers())))

    async def drain(self) -> None:
        """End all workers gently, at one time as each may take its while, and give the port up."""
        places = self.supervisor.of("gateway")
        await asyncio.gather(*(self.supervisor.unwant(place.slot.owner, DRAIN_S) for place in places))
        if self._listener is not None:
            self._listener.close()

    async def _put_one(self, path: str, table: Mapping[str, Any]) -> None:
        async with self._admin(path) as admin:
            await admin.put_table(table)

    async def _port(self) -> socket.socket:
        for fd_socket in sorted(self.supervisor.socket_dir.glob("g-*.fd.sock")):
            with contextlib.suppress(OSError, Unreachable, OperationFailed):
                listener = socket.socket(fileno=await asyncio.to_thread(self._fetch_fd, str(fd_socket)))
                if self._is_ours(listener):
                    log.info("took the public port back from %s", fd_socket.name)
                    return listener
                listener.close()
        return self._bind()

    def _is_ours(self, listener: socket.socket) -> bool:
        """The port that a living worker has is the one the configuration asks for."""
        host, port = self.config.address
        have = listener.getsockname()
        return port in (0, have[1]) and host in (have[0], "localhost")

    def _bind(self) -> socket.socket:
        host, port = self.config.address
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError as error:
            raise UsageError(
                f"[gateway] listen = {self.config.listen!r}: the port cannot be opened: {os.strerror(error.errno or 0)}",
                hint="stop what has the port (`ss -ltnp`), or choose another in airboss.toml; port 0 takes a free one",
                code="port_in_use",
            ) from error
        return listener

    def _digest(self) -> str:
        """Changes with whatever a worker is started with."""
        access = hashlib.sha256(self.access.model_dump_json().encode()).hexdigest()[:12]
        engine = "" if self.config.engine == "airboss" else f" {self.config.engine}"
        text = " feedback_text" if self.config.feedback_text else ""
        return f"gateway{engine} {self.config.listen} {self.config.metrics_listen or '-'} {self.config.max_inflight} {self.config.retries} {access}{text}"

    def _slot(self, index: int) -> Slot:
        listener = self._listener
        if listener is None:
            raise OperationFailed("the gateway's port is not open yet")

        def payload(spawn_id: str) -> Mapping[str, Any]:
            return {
                "listen_fd": listener.fileno(),
                "worker": index,
                "gateway_dir": str(self.gateway_dir),
                "max_inflight": self.config.max_inflight,
                "retries": self.config.retries,
                **({"feedback_text": True} if self.config.feedback_text else {}),
                "metrics": self.config.metrics_address(index),
                "access": self.access.model_dump(mode="json"),
                "fd_socket": str(self.supervisor.socket_dir / f"{spawn_id}.fd.sock"),
            }

        return Slot(
            owner=f"gateway/{index}",
            kind="gateway",
            module=MODULES[self.config.engine],
            payload=payload,
            pass_fds=(listener.fileno(),),
            digest=self._digest(),
            passed_env=env_names(self.access.auth.jwt.secret),
            index=index,
        )
