"""A registry that cannot be opened is said at once, with its own words: its worker answers, and is not waited for."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from starlette.applications import Starlette

from adapters.local.child import ChildSpec
from adapters.local.supervisor import Supervisor
from adapters.registry_worker import RegistryHost as Worker
from adapters.registry_worker import application
from engine.registry import START_S, RegistryHost
from state.paths import Paths
from state.registry_config import RegistryConfig


async def test_a_server_that_is_down_from_the_first_moment_is_not_waited_for(tmp_path: Path) -> None:
    import uvicorn

    spec = ChildSpec("r1", "registry", tmp_path, str(tmp_path / "s"), "d", {})
    worker = Worker({})
    worker.trouble = "the registry at http://mlflow.example.org cannot be opened: Connection refused"
    app: Starlette = application(spec, worker)
    server = uvicorn.Server(uvicorn.Config(app, uds=spec.socket, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    place = SimpleNamespace(is_ready=False, child=SimpleNamespace(spec=spec))

    class Places:
        async def want(self, slot: Any) -> Any:
            return place

    host = RegistryHost(cast(Supervisor, Places()), RegistryConfig(url="http://127.0.0.1:9"), Paths.of(tmp_path))
    began = time.monotonic()
    try:
        assert await host.socket() == spec.socket
        assert time.monotonic() - began < START_S / 2
    finally:
        server.should_exit = True
        await serving
