"""`init`, `doctor`, `config show`: a new workspace, and what is wrong with one."""

from __future__ import annotations

import fcntl
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from state.config import load_config
from state.paths import Paths

Run = Callable[..., Any]


def test_init_writes_a_workspace_that_loads(airboss: Run, tmp_path: Path) -> None:
    ran = airboss("init", str(tmp_path / "new" / "shop"), "--service", "search", "--listen", "127.0.0.1:9999")
    assert ran.code == 0, ran.err
    config = load_config(tmp_path / "new" / "shop")
    assert list(config.service) == ["search"]
    assert list(config.environment) == ["dev", "production"]
    assert (config.environment["dev"].protected, config.environment["production"].protected) == (False, True)
    assert config.policy_of("production").steps[-1].weight == 100
    assert config.service["search"].pipeline == "charlm"
    assert config.gateway.address == ("127.0.0.1", 9999)
    assert config.workspace["name"] == "shop"


def test_init_never_overwrites(airboss: Run, tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text("# mine\n")
    ran = airboss("init", str(tmp_path))
    assert ran.code == 6
    assert "was not touched" in ran.err
    assert (tmp_path / "airboss.toml").read_text() == "# mine\n"
    assert [p.name for p in tmp_path.iterdir()] == ["airboss.toml"]


@pytest.mark.parametrize("words", [("--service", "No Such"), ("--listen", "nowhere")])
def test_init_refuses_what_could_not_be_loaded_and_leaves_nothing(
    airboss: Run, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert airboss("init", str(tmp_path / "x"), *words).code == 2
    assert not (tmp_path / "x").exists()


def test_init_into_a_place_with_a_strange_name(airboss: Run, tmp_path: Path) -> None:
    assert airboss("init", str(tmp_path / 'a "b" \\c')).code == 0
    assert load_config(tmp_path / 'a "b" \\c').workspace["name"] == 'a "b" \\c'


def test_init_dry_writes_nothing(airboss: Run, tmp_path: Path) -> None:
    assert airboss("init", str(tmp_path / "x"), "--dry-run").code == 0
    assert not (tmp_path / "x").exists()


def test_config_show_fills_in_the_defaults(workspace: Paths, airboss: Run) -> None:
    item = airboss("config", "show", "-o", "json").json["items"][0]
    assert item["environment"]["production"]["protected"] is True
    assert item["gateway"]["retries"] == 1


def _checks(ran: Any) -> dict[str, str]:
    return {item["name"]: item["level"] for item in ran.json["items"]}


def test_doctor_of_a_new_workspace_has_warnings_only(workspace: Paths, airboss: Run) -> None:
    ran = airboss("doctor", "-o", "json")
    checks = _checks(ran)
    assert ran.code == 0
    assert (checks["workspace"], checks["engine"], checks["paging"], checks["gateway"]) == ("ok", "warn", "warn", "ok")


def test_doctor_of_a_running_one(engine: Any, airboss: Run) -> None:
    assert _checks(airboss("doctor", "-o", "json"))["engine"] == "ok"


def test_doctor_finds_a_taken_port(workspace: Paths, airboss: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text = (
            (workspace.root / "airboss.toml").read_text().replace("127.0.0.1:0", f"127.0.0.1:{taken.getsockname()[1]}")
        )
        (workspace.root / "airboss.toml").write_text(text)
        ran = airboss("doctor", "-o", "json")
    assert ran.code == 1
    assert _checks(ran)["gateway"] == "fail"


def test_doctor_finds_an_engine_that_hangs_and_a_store_that_is_none(workspace: Paths, airboss: Run) -> None:
    workspace.state.mkdir()
    workspace.store.write_bytes(b"this is not a database, by any measure")
    with workspace.engine_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = airboss("doctor", "-o", "json")
    assert ran.code == 1
    checks = _checks(ran)
    assert (checks["store"], checks["engine"]) == ("fail", "fail")


def test_doctor_outside_a_workspace(tmp_path: Path, airboss: Run) -> None:
    ran = airboss("doctor", "-o", "json", "--workspace", str(tmp_path))
    assert (ran.code, _checks(ran)["workspace"]) == (1, "fail")
