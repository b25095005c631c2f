"""The four acts on real servers: MLflow, Prometheus, Alertmanager and PostgreSQL in the place of all that is embedded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from adapters.mlflow_registry import MlflowRegistry
from tests.mlflow_server import mlflow_server
from tests.monitoring_servers import (
    alertmanager,
    free_ports_in_row,
    needs_alertmanager,
    needs_prometheus,
    prometheus,
)
from tests.postgres_server import PostgresServer, needs_postgres

GATEWAY_WORKERS = 2


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.mark.deep
@needs_prometheus
@needs_alertmanager
@needs_postgres
@pytest.mark.timeout(580)
def test_the_four_acts_are_played_with_every_backend_a_server(
    demo_root: Path, tmp_path: Path, play: Callable[..., dict[str, Any]], postgres: PostgresServer
) -> None:
    pages = free_ports_in_row(GATEWAY_WORKERS)
    targets = [f"127.0.0.1:{pages + worker}" for worker in range(GATEWAY_WORKERS)]
    (tmp_path / "mlflow").mkdir()
    watching, alerting = prometheus(tmp_path / "prometheus", targets), alertmanager(tmp_path / "alertmanager")
    database = postgres.database()
    try:
        with mlflow_server(tmp_path / "mlflow") as registry:
            servers = tmp_path / "servers.toml"
            servers.write_text(
                f'[registry]\nurl = "{registry}"\n'
                f'[metrics]\nurl = "{watching.url}"\nstep = "1s"\n'
                f'[alerts]\nalertmanager = ["{alerting.url}"]\n'
                f'[state]\nurl = "{database}"\n'
                f'[gateway]\nlisten = "127.0.0.1:0"\nworkers = {GATEWAY_WORKERS}\nmetrics_listen = "{targets[0]}"\n'
            )
            document = play(servers=servers)
            make, _, advance, recover = document["acts"]
            assert recover["rollout"]["state"] == "rolled_back"
            assert document["requests"]["stable_failed"] == 0
            assert document["audit"]["ok"]
            # Each server holds its part of it, asked without Airboss.
            kept = MlflowRegistry(url=registry)
            model = make["release"]["model"].removesuffix(" v1")
            assert kept.aliases(model) == {"champion": "2", "previous-champion": "1"}
            assert kept.version(model, "3").tags["airboss.stage"] == "Rejected"
            assert not list((demo_root / ".airboss" / "mlflow").iterdir())
            with psycopg.connect(database) as connection:
                states = connection.execute("SELECT id, state FROM rollout ORDER BY created_at").fetchall()
            assert [state for _, state in states] == ["completed", "completed", "rolled_back"]
            assert not (demo_root / ".airboss" / "state.db").exists()
            counted = _asked(watching.url, "count(count by (release) (last_over_time(airboss_requests_total[10m])))")
            assert counted >= 3, "Prometheus counted each release's requests"
            assert advance["is_better"]
            told = httpx.get(f"{alerting.url}/api/v2/alerts", trust_env=False).json()
            raised = {alert["labels"]["alertname"] for alert in told}
            assert raised, document["alerts"]
    finally:
        watching.stop()
        alerting.stop()


def _asked(url: str, query: str) -> float:
    found = httpx.get(f"{url}/api/v1/query", params={"query": query}, trust_env=False).json()["data"]["result"]
    return float(found[0]["value"][1]) if found else 0.0
