"""`python -m engine.pipelines.exports WORKSPACE NAME KIND`: a pipeline as a file of GitHub Actions, GitLab CI or Argo Workflows, on stdout.

One job a stage, after those it needs, with its command, its parameters, its gates. Stages that are Python entries run inside Airboss alone: a
pipeline that has some is one job, which runs it there.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.pipelines import yaml12
from engine.pipelines.catalogue import pipeline_of
from engine.pipelines.declared import COMMAND
from engine.pipelines.spec import Pipeline
from state.config import load_config
from state.gates import parse_gate
from state.words import AirbossError, ExitCode

IMAGE = "python:3.11"
INSTALL = "pip install airboss"
_GATES = """\
python3 - <<'AIRBOSS_GATES'
import json, math, operator, sys
def numbers(value, prefix=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield prefix or "value", float(value)
found = {}
for path in @METRICS@:
    found.update(numbers(json.load(open(path))))
held = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
bad = False
for name, op, limit, blocking in @GATES@:
    value = found.get(name, math.nan)
    if not (math.isfinite(value) and held[op](value, limit)):
        print(f"{'gate' if blocking else 'warning'}: {name} = {value}, must be {op} {limit}")
        bad = bad or blocking
sys.exit(8 if bad else 0)
AIRBOSS_GATES"""
"""What Airboss does with a command's metrics, for a runner that has no Airboss: a missing number, or NaN, never passes."""


@dataclass(frozen=True, slots=True)
class Job:
    """A stage as any runner takes it: shell lines from the project's root, and what goes from one job to the next."""

    name: str
    needs: tuple[str, ...]
    lines: tuple[str, ...]
    env: Mapping[str, str]
    outs: tuple[str, ...]
    reads: tuple[str, ...]
    """Jobs whose outs it gets: all that it needs, as in a workspace."""
    timeout_s: float
    retries: int


def jobs_of(pipeline: Pipeline) -> tuple[Job, ...]:
    """A job a stage; one for all of them where one of them is an entry."""
    if any(stage.entry != COMMAND for stage in pipeline.stages):
        run = f"airboss pipeline run {shlex.quote(pipeline.name)} --watch"
        limit_s = sum(stage.timeout_s for stage in pipeline.stages)
        return (Job(pipeline.name, (), (INSTALL, "airboss up -d", run), {}, (), (), limit_s, 0),)
    names = {stage.name: _job_name(stage.name) for stage in pipeline.stages}
    return tuple(_job(pipeline, stage.name, names) for stage in pipeline.stages)


def _job(pipeline: Pipeline, name: str, names: Mapping[str, str]) -> Job:
    stage, params = pipeline.stage(name), pipeline.stage_params(name)
    values = dict(params["values"]) | {k.removeprefix("param:"): v for k, v in params.items() if k.startswith("param:")}
    outs, cwd = tuple(params["outs"]), str(params["cwd"])
    makes = sorted(({str(Path(path).parent) for path in outs} | {cwd}) - {"."})
    lines = [f"mkdir -p {' '.join(map(shlex.quote, makes))}"] if makes else []
    lines += [line if cwd == "." else f"(cd {shlex.quote(cwd)} && {line})" for line in params["commands"]]
    if params["gates"]:
        gates = [list(parse_gate(gate)) for gate in params["gates"]]
        lines.append(_GATES.replace("@METRICS@", repr(params["metrics"])).replace("@GATES@", repr(gates)))
    env = {f"PARAM_{re.sub(r'[^A-Za-z0-9]', '_', key).upper()}": str(value) for key, value in values.items()}
    return Job(
        names[name], tuple(names[need] for need in stage.needs), tuple(lines), {**env, **params["env"]}, outs,
        tuple(names[need] for need in stage.needs if pipeline.stage_params(need)["outs"]), stage.timeout_s, stage.retries,
    )  # fmt: skip


def _job_name(stage: str) -> str:
    """As every runner takes one: letters, digits and '-', a letter first."""
    made = re.sub(r"[^a-z0-9-]+", "-", stage.lower()).strip("-")
    return made if made[:1].isalpha() else f"stage-{made}"


def github(name: str, jobs: Sequence[Job], image: str) -> dict[str, Any]:
    """A workflow of GitHub Actions: by hand, and at each push."""
    made = {}
    for job in jobs:
        steps: list[dict[str, Any]] = [
            {"uses": "actions/checkout@v4"},
            *({"uses": "actions/download-artifact@v4", "with": {"name": read, "path": "."}} for read in job.reads),
            {"name": job.name, "run": "\n".join(job.lines) + "\n"},
        ]
        if job.outs:
            # The project's own file is always there: with it, paths in the artifact begin at the project's root.
            kept = "\n".join((*job.outs, ANCHOR))
            steps[-1]["run"] += f"touch {ANCHOR}\n"
            steps.append(
                {
                    "uses": "actions/upload-artifact@v4",
                    "with": {
                        "name": job.name,
                        "path": kept,
                        "if-no-files-found": "error",
                        "include-hidden-files": True,
                    },
                }
            )
        body: dict[str, Any] = {
            "runs-on": "ubuntu-latest",
            "container": image,
            "timeout-minutes": _minutes(job.timeout_s),
        }
        if job.needs:
            body["needs"] = list(job.needs)
        if job.env:
            body["env"] = dict(job.env)
        made[job.name] = body | {"steps": steps}
    return {
        "name": name,
        "on": {"push": {}, "workflow_dispatch": {}},
        "permissions": {"contents": "read"},
        "jobs": made,
    }


ANCHOR = ".airboss-root"


def gitlab(name: str, jobs: Sequence[Job], image: str) -> dict[str, Any]:
    """A pipeline of GitLab CI: one stage, its jobs in the order of their needs."""
    made: dict[str, Any] = {"workflow": {"name": name}, "default": {"image": image}, "stages": ["run"]}
    for job in jobs:
        body: dict[str, Any] = {
            "stage": "run",
            "script": list(job.lines),
            "timeout": f"{_minutes(job.timeout_s)} minutes",
        }
        body["needs"] = [{"job": need, "artifacts": need in job.reads} for need in job.needs]
        if job.env:
            body["variables"] = dict(job.env)
        if job.retries:
            body["retry"] = min(job.retries, 2)
        if job.outs:
            body["artifacts"] = {"paths": list(job.outs), "when": "on_success"}
        made[job.name] = body
    return made


def argo(name: str, jobs: Sequence[Job], image: str) -> dict[str, Any]:
    """A Workflow of Argo: a checkout, then the stages as a graph on one volume. `repository` and `revision` are its arguments."""
    volume = [{"name": "project", "mountPath": "/project"}]
    tasks: list[dict[str, Any]] = [{"name": CHECKOUT, "template": CHECKOUT}]
    templates: list[dict[str, Any]] = [
        {
            "name": CHECKOUT,
            "container": {
                "image": "alpine/git",
                "command": ["sh", "-ec"],
                "args": [
                    "git clone {{workflow.parameters.repository}} . && git checkout {{workflow.parameters.revision}}"
                ],
                "workingDir": "/project",
                "volumeMounts": volume,
            },
        }
    ]
    for job in jobs:
        tasks.append({"name": job.name, "template": job.name, "dependencies": list(job.needs) or [CHECKOUT]})
        template: dict[str, Any] = {
            "name": job.name,
            "activeDeadlineSeconds": int(job.timeout_s),
            "container": {
                "image": image,
                "command": ["sh", "-ec"],
                "args": ["\n".join(job.lines)],
                "workingDir": "/project",
                "env": [{"name": key, "value": value} for key, value in job.env.items()],
                "volumeMounts": volume,
            },
        }
        if job.retries:
            template["retryStrategy"] = {"limit": str(job.retries), "retryPolicy": "Always"}
        templates.append(template)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}}
    arguments = [{"name": "repository"}, {"name": "revision", "value": "HEAD"}]
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"generateName": f"{_job_name(name)}-"},
        "spec": {
            "entrypoint": "run",
            "arguments": {"parameters": arguments},
            "volumeClaimTemplates": [{"metadata": {"name": "project"}, "spec": claim}],
            "templates": [{"name": "run", "dag": {"tasks": tasks}}, *templates],
        },
    }


CHECKOUT = "checkout"


def _minutes(seconds: float) -> int:
    """Six hours are the most that GitHub gives a job."""
    return max(1, min(360, round(seconds / 60)))


KINDS: Mapping[str, Callable[[str, Sequence[Job], str], dict[str, Any]]] = {
    "argo": argo,
    "github": github,
    "gitlab": gitlab,
}


def exported(pipeline: Pipeline, kind: str, image: str = IMAGE) -> str:
    """The file's text."""
    note = f"# {pipeline.name}, written by `airboss pipeline export {pipeline.name} --to {kind}`: write it anew instead of editing it.\n"
    return note + yaml12.dump(KINDS[kind](pipeline.name, jobs_of(pipeline), image))


def main(argv: list[str]) -> int:
    """Print the file. Returns the documented exit code."""
    root, name, kind, image = Path(argv[0]), argv[1], argv[2], argv[3]
    try:
        pipeline, _ = pipeline_of(load_config(root), name, root)
    except AirbossError as error:
        sys.stderr.write(json.dumps({"error": error.as_dict()}) + "\n")
        return int(error.exit)
    sys.stdout.write(exported(pipeline, kind, image))
    return int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
