"""What a gateway worker is started with, and that it is started anew when that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.local.gateway import LocalGateway
from adapters.local.probing import probe_key
from state.access_config import AccessConfig
from state.gateway_config import GatewayConfig

TLS = {"tls_cert": "c.pem", "tls_key": "k.pem"}
JWT = {"algorithms": ["HS256"], "secret": "env:A_SECRET", "audience": ["airboss"]}


def slot_of(root: Path, **gateway: Any) -> Any:
    config = GatewayConfig.model_validate(gateway)
    local = LocalGateway(None, config, root, admin=None, fetch_fd=None, root=root)
    local.supervisor = type("Supervisor", (), {"socket_dir": root})()
    local._listener = type("Listener", (), {"fileno": lambda self: 7})()
    return local._slot(0)


@pytest.mark.parametrize(
    "gateway",
    [
        {"auth": {"mode": "keys"}},
        {"auth": {"mode": "jwt", "jwt": JWT}},
        {"rate": {"key": {"requests_per_minute": 5}}},
        {"rate": {"tenant": {"burst": 5}}},
        {"requests": {"max_body_bytes": 2048}},
        {"cache": {"max_entries": 3}},
        {"workers": 3},
        TLS,
        {**TLS, "tls_client_ca": "ca.pem"},
    ],
)
def test_a_worker_is_replaced_when_what_it_was_started_with_changes(tmp_path: Path, gateway: dict[str, Any]) -> None:
    assert slot_of(tmp_path, **gateway).digest != slot_of(tmp_path).digest
    assert slot_of(tmp_path, **gateway).digest == slot_of(tmp_path, **gateway).digest


def test_a_worker_gets_references_to_secrets_and_only_the_environment_they_name(tmp_path: Path) -> None:
    slot = slot_of(tmp_path, auth={"mode": "jwt", "jwt": JWT})
    assert slot.passed_env == ("A_SECRET",) and slot_of(tmp_path).passed_env == ()
    payload = slot.payload("g-1")
    assert payload["access"]["auth"]["jwt"]["secret"] == "env:A_SECRET"
    assert AccessConfig.model_validate(payload["access"]).workers == 2


def test_the_probers_key_is_made_once_and_is_this_users_alone(tmp_path: Path) -> None:
    key = probe_key(tmp_path)
    assert len(key) > 40 and probe_key(tmp_path) == key
    assert (tmp_path / "probe.key").stat().st_mode & 0o077 == 0
