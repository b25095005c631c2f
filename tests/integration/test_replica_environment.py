"""What a replica that the engine starts inherits of the engine's environment."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from bundles import seal

from adapters.local.places import Backoff
from adapters.local.runtime import LocalRuntime
from adapters.local.spawn import Spawner
from adapters.local.supervisor import Supervisor
from adapters.ports import ReplicaSetSpec
from state.store import Store


async def test_a_replica_inherits_opentelemetrys_variables_and_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("DATABASE_PASSWORD", "s3cret")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "weights.gguf").write_bytes(b"GGUF")
    digest = seal(bundle, "chat-1")
    (tmp_path / "run").mkdir()
    store = Store.open(tmp_path / "airboss.db")
    # A command that never answers: its front stays at starting until it is told to end.
    serving = {"backend": "command", "command": ["sleep", "600"], "drain_accept_s": 0, "stop_grace_s": 3}
    with tempfile.TemporaryDirectory(prefix="ab-", dir="/tmp") as sockets:
        supervisor = Supervisor(
            Spawner(tmp_path / "run", tmp_path / "logs"), store, Path(sockets), Backoff(), lambda owner: None
        )
        runtime = LocalRuntime(supervisor, threads=1, crash_loop_after=4)
        await runtime.ensure(ReplicaSetSpec("chat", "dev", "chat-1", digest, bundle, 1, serving))
        (replica,) = runtime.replicas("chat", "dev")
        inherited = Path(f"/proc/{replica.pid}/environ").read_text().split("\0")
        await supervisor.unwant("model/chat/dev/chat-1/0", 10.0)
    store.close()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318" in inherited
    assert "OTEL_TRACES_SAMPLER=traceidratio" in inherited
    assert not any(line.startswith("DATABASE_PASSWORD") for line in inherited)
