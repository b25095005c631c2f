"""kill -9 of the engine between the registry's two aliases: traffic has moved, and the registry follows it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos_workspace import CANARY, STABLE, WHOLE_PATH, Workspace
from patience import until

from adapters.mlflow_registry import MlflowRegistry
from adapters.ports import ModelFile, Registration

pytestmark = pytest.mark.deep

MakeWorkspace = Callable[..., Workspace]
CRASHING = Path(__file__).with_name("crashing_engine.py")
MODEL = "tiny"


def register(ws: Workspace, data: Path) -> None:
    """Both releases as versions of one model, the live one its champion."""
    data.write_text("the data\n")
    registry = MlflowRegistry(mlflow_dir=ws.paths.mlflow)
    for release in (STABLE, CANARY):
        (row,) = ws.rows("SELECT digest, bundle_path FROM release WHERE id = ?", release)
        listed = json.loads((Path(row["bundle_path"]) / "release.json").read_text())["files"]
        bundle = data.with_name(release)
        shutil.copytree(row["bundle_path"], bundle, ignore=shutil.ignore_patterns("release.json"))
        version = registry.register(
            Registration(
                model_name=MODEL, build_key=release, bundle_path=bundle, files=tuple(ModelFile(**file) for file in listed),
                digest=row["digest"], params={}, metrics={}, dataset_name="data", dataset_sha256="0" * 64,
                dataset_path=data, tags={},
            )
        )  # fmt: skip
        ws.change("UPDATE release SET model_version = ? WHERE id = ?", version.version, release)
        if release == STABLE:
            registry.set_alias(MODEL, "champion", version.version)
    registry.close()


def test_killed_between_two_aliases_the_registry_still_ends_with_the_live_release(
    workspace: MakeWorkspace, tmp_path: Path
) -> None:
    ws = workspace()
    register(ws, tmp_path / "data.txt")
    ws.start(script=CRASHING, CHAOS_POINTS=str(ws.root / "points"), CHAOS_CRASH_AT="before the alias champion")
    until(ws.is_serving, "users are answered")
    users = ws.users()
    rollout_id = ws.deploy()
    until(lambda: ws.engines[-1].poll() is not None, "it dies between the aliases")
    assert ws.weights() == [{CANARY: 100}] * 2, "traffic had moved first"
    ws.start()
    ws.wait_for(rollout_id, "completed")
    assert ws.path(rollout_id) == list(WHOLE_PATH)
    report = users.stop()
    assert report.failed == 0, report
    until(
        lambda: ws.rows("SELECT 1 FROM rollout WHERE id = ? AND registry_sync = 'ok'", rollout_id),
        "the registry follows",
    )
    ws.assert_in_order()
    workers = [p for p in ws.processes() if p.module == "adapters.registry_worker"]
    assert len(workers) == 1, "the registry's worker was adopted too"
    ws.kill_engine()
    registry = MlflowRegistry(mlflow_dir=ws.paths.mlflow)
    assert dict(registry.aliases(MODEL)) == {"champion": "2", "previous-champion": "1"}
    tags = registry.version(MODEL, "2").tags
    registry.close()
    assert tags["airboss.stage"] == "Production" and tags["airboss.rollout"] == rollout_id
