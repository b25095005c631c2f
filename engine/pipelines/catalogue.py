"""The pipelines of a workspace: from `[pipeline.NAME]` of airboss.toml to the runner's values."""

from __future__ import annotations

from engine.pipelines.charlm import charlm
from engine.pipelines.spec import Pipeline
from state.config import Config
from state.words import UsageError


def pipeline_of(config: Config, name: str) -> tuple[Pipeline, str]:
    """The pipeline `name` with the file's parameters, and the service its releases are for.

    Raises UsageError when the workspace has none of that name, or none of its services takes it.
    """
    settings = config.pipeline.get(name)
    if settings is None:
        raise UsageError(
            f"there is no pipeline {name!r}",
            hint=f"airboss.toml has: {', '.join(config.pipeline) or 'none'}",
            code="no_pipeline",
        )
    service = next((key for key, value in config.service.items() if value.pipeline == name), None)
    if service is None:
        raise UsageError(
            f"no service takes releases of the pipeline {name!r}",
            hint=f'write pipeline = "{name}" under [service.NAME] in airboss.toml',
            code="no_service_of_pipeline",
        )
    return charlm(name, settings.params), service
