"""`[pipeline.NAME]` of airboss.toml: the built-in one, stages of one's own, or a DVC project."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from state.config_types import Duration, Name, Table
from state.gates import parse_gate
from state.job_config import JobPods, StagePods

_ENTRY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def _below_the_workspace(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if path.startswith(("/", "~")) or ".." in path.split("/"):
            raise ValueError(f"{path!r} must be a path inside the workspace")
    return paths


class StageConfig(Table):
    """A stage of one's own: a command, run by the shell in the workspace, or a Python function (`entry = "module:function"`).

    `deps` and `outs` are paths in the workspace (`cwd`, where given); a dep that is another stage's out makes this stage need it. `params`
    names the pipeline's parameters that it depends on; the command gets them as $PARAM_NAME, an entry in its context.
    `metrics` are JSON, YAML or TOML files that it writes; `gates` look at them. `executor` is the pipeline's without one; `kubernetes` has
    what its pod has otherwise than the pipeline's.
    """

    command: str | None = None
    entry: str | None = None
    needs: tuple[str, ...] = ()
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    env: dict[str, str] = Field(default_factory=dict)
    cwd: str = "."
    timeout: Duration = 3600.0
    retries: int = Field(default=0, ge=0, le=20)
    backoff: Duration = 1.0
    cached: bool = True
    registry: bool = False
    release: bool = False
    executor: Literal["local", "kubernetes"] | None = None
    kubernetes: StagePods | None = None

    @model_validator(mode="after")
    def _one_way(self) -> StageConfig:
        if (self.command is None) == (self.entry is None):
            raise ValueError("a stage has a command or an entry: one of them")
        if self.entry is not None and not _ENTRY.fullmatch(self.entry):
            raise ValueError(f"entry = {self.entry!r} must be module:function")
        if self.entry is not None and (self.outs or self.metrics or self.gates or self.cwd != "."):
            raise ValueError(
                "outs, metrics, gates and cwd are a command's; an entry writes below its own directory and returns them"
            )
        if self.command is not None and (self.registry or self.release):
            raise ValueError("registry and release are an entry's: a command cannot make a release")
        if self.entry is not None and (self.executor == "kubernetes" or self.kubernetes is not None):
            raise ValueError("an entry runs on this host; give a command to run it as a Job")
        return self

    @field_validator("deps", "outs", "metrics")
    @classmethod
    def _inside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _below_the_workspace(value)

    @field_validator("gates")
    @classmethod
    def _gates(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for gate in value:
            parse_gate(gate)
        return value


class TriggerConfig(Table):
    """What starts a pipeline by itself: a time (`cron`, in `timezone`), other bytes in files or folders of the workspace (`data`), or an
    alert of that name that begins to fire (`alert`). One of them.

    `cooldown` is the least time from one run of it to the next; `settle` how long changed data must stay as it is first; `params` are set for
    its runs. With `approval` it proposes a run, and `airboss trigger approve` starts it.
    """

    cron: str | None = None
    timezone: str = "UTC"
    data: tuple[str, ...] = ()
    settle: Duration = 10.0
    alert: str | None = None
    cooldown: Duration = 0.0
    approval: bool = False
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> TriggerConfig:
        if (self.cron is not None) + bool(self.data) + (self.alert is not None) != 1:
            raise ValueError("a trigger has a cron, data or an alert: one of them")
        return self

    @field_validator("cron")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            from cronsim import CronSim, CronSimError

            try:
                next(CronSim(value, datetime.now(UTC)))
            except (CronSimError, StopIteration) as error:
                raise ValueError(
                    f"cron = {value!r}: {error or 'it never comes'}; for example '0 3 * * mon-fri'"
                ) from None
        return value

    @field_validator("timezone")
    @classmethod
    def _timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"timezone = {value!r} is not known here; for example 'UTC' or 'Europe/Berlin'") from None
        return value

    @field_validator("data")
    @classmethod
    def _inside(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _below_the_workspace(value)


class PipelineConfig(Table):
    """What makes a release, or anything else: `kind = "charlm"`, the built-in stages; `"stages"`, those in its `stage` table;
    `"dvc"`, the `dvc.yaml` in the directory `path`.

    `params` are charlm's own; of other kinds, values of one's own that stages name. With `executor = "kubernetes"` its commands run as
    Jobs, as `kubernetes` says.
    """

    kind: Literal["charlm", "stages", "dvc"] = "charlm"
    params: dict[str, Any] = Field(default_factory=dict)
    stage: dict[Name, StageConfig] = Field(default_factory=dict)
    path: str = "."
    trigger: dict[Name, TriggerConfig] = Field(default_factory=dict)
    executor: Literal["local", "kubernetes"] = "local"
    kubernetes: JobPods | None = None

    @model_validator(mode="after")
    def _fits(self) -> PipelineConfig:
        if self.stage and self.kind != "stages":
            raise ValueError('a stage table goes with kind = "stages"')
        if self.kind == "stages" and not self.stage:
            raise ValueError('kind = "stages" needs [pipeline.NAME.stage.STAGE] tables')
        if self.kind == "charlm" and (self.executor == "kubernetes" or self.kubernetes is not None):
            raise ValueError("the stages of charlm are Python: they run on this host")
        elsewhere = [name for name, one in self.stage.items() if one.executor == "kubernetes"]
        if (self.executor == "kubernetes" or elsewhere) and self.kubernetes is None:
            raise ValueError(
                f'executor = "kubernetes"{f" of {elsewhere[0]}" if elsewhere else ""} needs [pipeline.NAME.kubernetes]'
            )
        return self

    def runs_on(self, stage: str) -> JobPods | None:
        """The Jobs that the stage's commands run as; None for this host."""
        one = self.stage.get(stage)
        executor = (one.executor if one else None) or self.executor
        if executor == "local" or self.kubernetes is None or (one is not None and one.entry is not None):
            return None
        return self.kubernetes.for_stage(one.kubernetes if one else None)
