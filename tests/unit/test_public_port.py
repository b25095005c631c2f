"""What `doctor` says of the gateway's public port."""

from __future__ import annotations

from pathlib import Path

import pytest

from console.public_port import access_findings
from state.gateway_config import GatewayConfig
from state.key_file import add_key, make_key


def said(tmp_path: Path, **gateway: object) -> list[tuple[str, str]]:
    config = GatewayConfig.model_validate(gateway)
    return [(f.name, f.level) for f in access_findings(config, tmp_path)]


@pytest.mark.parametrize("listen", ["127.0.0.1:8080", "localhost:8080", "[::1]:8080"])
def test_a_port_of_this_host_alone_is_nothing_to_speak_of(tmp_path: Path, listen: str) -> None:
    assert said(tmp_path, listen=listen) == []


def test_a_port_that_others_reach_without_a_key_or_tls_is_a_warning(tmp_path: Path) -> None:
    assert said(tmp_path, listen="0.0.0.0:8080") == [("access", "warn"), ("tls", "warn")]


def test_keys_that_let_nobody_in_are_named(tmp_path: Path) -> None:
    gateway = {"auth": {"mode": "keys"}}
    assert said(tmp_path, **gateway) == [("keys", "warn")]
    add_key(tmp_path / "airboss-keys.toml", make_key("ci").key)
    assert said(tmp_path, **gateway) == [("keys", "ok")]
    (tmp_path / "airboss-keys.toml").write_text("[[key]]")
    assert said(tmp_path, **gateway) == [("keys", "fail")]


def test_a_certificate_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    assert said(tmp_path, tls_cert="cert.pem", tls_key="key.pem") == [("tls", "fail")]
