"""`rollback --emergency` around its edges: a plan is found by its name alone, a record that is none stops no engine."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from console.emergency import read_plan
from engine.spill import import_spill
from state.config import parse_config
from state.models import Audit
from state.paths import Paths
from state.store import Store
from state.words import OperationFailed

ACT = {"service": "chat", "env": "production", "to_release": "charlm-1", "at": 1.0, "actor": "user:ana"}


@pytest.mark.parametrize(
    "body", [[], {}, "x", {**ACT, "before": "x"}, {**ACT, "started": [{"pid": 1}]}, {**ACT, "started": ["x"]}]
)
def test_a_record_that_is_none_is_put_aside_and_said(tmp_path: Path, body: Any) -> None:
    (tmp_path / "1.json").write_text(json.dumps(body))
    (tmp_path / "2.json").write_text(json.dumps(ACT))
    config = parse_config("[service.chat]\n[environment.production]\n", Path("airboss.toml"))
    store = Store.open(tmp_path / "state.db")
    try:
        assert asyncio.run(import_spill(store, tmp_path, config)) == 1
        said = store.read_now(lambda s: list(s.exec(select(Audit.action))))
    finally:
        store.close()
    assert said == ["spill.unreadable", "rollback.emergency"]
    assert sorted(path.name for path in tmp_path.glob("?.*")) == ["1.unreadable", "2.imported"]


@pytest.mark.parametrize(
    ("service", "env"), [("*", None), ("chat", "*"), ("../rollback/chat", None), ("c[h]at", None), ("", None)]
)
def test_a_plan_is_found_by_its_name_and_by_no_pattern(tmp_path: Path, service: str, env: str | None) -> None:
    paths = Paths(tmp_path)
    paths.rollback.mkdir(parents=True)
    stable = {"track": "stable", "weight": 100}
    plan = {**ACT, "route": {"backends": [stable]}}
    (paths.rollback / "chat@production.json").write_text(json.dumps(plan))
    assert (
        read_plan(paths, "chat", None)["to_release"]
        == read_plan(paths, "chat", "production")["to_release"]
        == "charlm-1"
    )
    with pytest.raises(OperationFailed, match="no rollback plan is kept"):
        read_plan(paths, service, env)
