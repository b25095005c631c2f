"""The pipelines of a workspace: from `[pipeline.NAME]` of airboss.toml to the runner's values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engine.pipelines.charlm import charlm
from engine.pipelines.declared import COMMAND, declared
from engine.pipelines.dvc_project import read_project
from engine.pipelines.spec import Pipeline
from state.config import Config
from state.pipeline_config import PipelineConfig
from state.words import UsageError


def placed(pipeline: Pipeline, settings: PipelineConfig) -> Pipeline:
    """The pipeline with the commands of each stage where its settings say."""
    stages = []
    for stage in pipeline.stages:
        pods = settings.runs_on(stage.name) if stage.entry == COMMAND else None
        stages.append(replace(stage, executor=pods.model_dump(mode="json")) if pods else stage)
    return replace(pipeline, stages=tuple(stages))


def pipeline_of(config: Config, name: str, root: Path) -> tuple[Pipeline, str]:
    """The pipeline `name` with the file's parameters, and the service its releases are for: "" for one that makes none.

    `root` is the workspace. Blocks: a DVC project's files are read. Raises UsageError when the workspace has no pipeline of
    that name, when it cannot be read, or when it makes releases that no service takes.
    """
    settings = config.pipeline.get(name)
    if settings is None:
        raise UsageError(
            f"there is no pipeline {name!r}",
            hint=f"airboss.toml has: {', '.join(config.pipeline) or 'none'}",
            code="no_pipeline",
        )
    if settings.kind == "charlm":
        pipeline = charlm(name, settings.params)
    elif settings.kind == "stages":
        pipeline = declared(name, settings, str(root))
    else:
        pipeline = read_project(name, root, settings.path)
    pipeline = placed(pipeline, settings)
    service = next((key for key, value in config.service.items() if value.pipeline == name), None)
    if service is None and any(stage.makes_release for stage in pipeline.stages):
        raise UsageError(
            f"no service takes releases of the pipeline {name!r}",
            hint=f'write pipeline = "{name}" under [service.NAME] in airboss.toml',
            code="no_service_of_pipeline",
        )
    return pipeline, service or ""
