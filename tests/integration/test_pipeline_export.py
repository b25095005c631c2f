"""A pipeline in other runners' files: valid by their own schemas, and GitHub's jobs carried out step by step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hera.workflows.models import Workflow

from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.exports import exported
from state.config import parse_config

OWN = """
[pipeline.own]
kind = "stages"
params = { factor = 2, limit = "1" }
[pipeline.own.stage.report]
command = "cat work/sums.json > report.txt; echo done >> report.txt"
deps = ["work/sums.json"]
outs = ["report.txt"]
metrics = ["work/sums.json"]
gates = ["total >= 10", "warning: total <= 11"]
retries = 3
timeout = "2h"
[pipeline.own.stage.sums]
command = '''
python3 -c "import json,os;n=[int(x) for x in open('data.txt')];json.dump({'total':sum(n)*int(os.environ['PARAM_FACTOR'])},open('work/sums.json','w'))"
'''
deps = ["data.txt"]
outs = ["work/sums.json"]
params = ["factor"]
[pipeline.own.stage.after-all]
command = "test -e report.txt"
needs = ["report", "sums"]
"""
CHARLM = '[service.chat]\npipeline = "charlm"\n[pipeline.charlm]\nkind = "charlm"\n'


def body(tmp_path: Path, text: str, name: str, kind: str) -> tuple[str, Any]:
    """The exported text and what it says."""
    pipeline, _ = pipeline_of(parse_config(text, tmp_path / "airboss.toml"), name, tmp_path)
    written = exported(pipeline, kind)
    return written, yaml.safe_load(written)


@pytest.mark.parametrize(("text", "name"), [(OWN, "own"), (CHARLM, "charlm")])
@pytest.mark.parametrize(("kind", "schema"), [("github", "vendor.github-workflows"), ("gitlab", "vendor.gitlab-ci")])
def test_a_ci_file_is_valid_by_its_makers_schema(tmp_path: Path, text: str, name: str, kind: str, schema: str) -> None:
    written, _ = body(tmp_path, text, name, kind)
    path = tmp_path / f"{kind}.yml"
    path.write_text(written)

    def checked() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(path)]
        return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)

    assert checked().returncode == 0, checked().stdout
    path.write_text(written.replace("\n    needs:", "\n    needs: {}\n    wants:") + "stage-x: 3\n")
    assert checked().returncode != 0


@pytest.mark.parametrize(("text", "name"), [(OWN, "own"), (CHARLM, "charlm")])
def test_an_argo_workflow_is_one_by_its_model_and_its_graph_is_the_pipelines(
    tmp_path: Path, text: str, name: str
) -> None:
    _, said = body(tmp_path, text, name, "argo")
    workflow = Workflow.model_validate(said)
    templates = {template.name: template for template in workflow.spec.templates or []}
    tasks = {task.name: task for task in templates["run"].dag.tasks or []}
    assert set(tasks) == set(templates) - {"run"}
    assert all(need in tasks for task in tasks.values() for need in task.dependencies or [])
    if name == "own":
        assert {key: task.dependencies for key, task in tasks.items()} == {
            "checkout": None,
            "sums": ["checkout"],
            "report": ["sums"],
            "after-all": ["report", "sums"],
        }
        assert [(e.name, e.value) for e in templates["sums"].container.env] == [("PARAM_FACTOR", "2")]
        assert str(templates["report"].retry_strategy.limit) in ("3", "root='3'")


def play(said: Any, tmp_path: Path, data: str) -> dict[str, int]:
    """GitHub's jobs carried out here, each on a checkout of its own, artifacts handed on: job → exit code."""
    artifacts, ended = tmp_path / "artifacts", dict[str, int]()
    for name, job in said["jobs"].items():
        if any(ended[need] for need in job.get("needs", [])):
            ended[name] = -1
            continue
        root = tmp_path / "jobs" / name
        for step in job["steps"]:
            match step.get("uses", "run").partition("@")[0]:
                case "actions/checkout":
                    root.mkdir(parents=True)
                    (root / "data.txt").write_text(data)
                case "actions/download-artifact":
                    shutil.copytree(artifacts / step["with"]["name"], root, dirs_exist_ok=True)
                case "run":
                    env = {**os.environ, **job.get("env", {})}
                    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=root, env=env, timeout=60, check=False)
                    ended[name] = done.returncode
                case "actions/upload-artifact":
                    for path in step["with"]["path"].splitlines() if not ended[name] else ():
                        place = artifacts / step["with"]["name"] / path
                        place.parent.mkdir(parents=True, exist_ok=True)
                        shutil.copyfile(root / path, place)
            if ended.get(name):
                break
    return ended


def test_githubs_jobs_do_what_the_pipeline_does_and_their_gates_refuse(tmp_path: Path) -> None:
    _, said = body(tmp_path, OWN, "own", "github")
    assert {name: job.get("needs") for name, job in said["jobs"].items()} == {
        "sums": None,
        "report": ["sums"],
        "after-all": ["report", "sums"],
    }
    assert play(said, tmp_path / "good", "1\n2\n3\n") == {"sums": 0, "report": 0, "after-all": 0}
    kept = tmp_path / "good" / "artifacts" / "report" / "report.txt"
    assert kept.read_text() == '{"total": 12}done\n'
    assert play(said, tmp_path / "bad", "1\n") == {"sums": 0, "report": 8, "after-all": -1}


def test_the_command_shows_it_or_writes_it(tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text(OWN)
    program = [sys.executable, "-m", "console.cli", "--workspace", str(tmp_path), "pipeline", "export"]

    def ran(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, timeout=120, check=False)

    shown = ran("own", "--to", "gitlab")
    assert yaml.safe_load(shown.stdout)["sums"]["variables"] == {"PARAM_FACTOR": "2"}, shown.stderr
    out = tmp_path / ".github" / "workflows" / "own.yml"
    assert ran("own", "--to", "github", "--out", str(out)).returncode == 0
    assert "sums" in yaml.safe_load(out.read_text())["jobs"]
    refused = ran("other", "--to", "argo", "-o", "json")
    assert refused.returncode == 2 and json.loads(refused.stderr)["error"]["code"] == "no_pipeline"
