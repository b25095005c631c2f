"""`[pipeline.NAME.kubernetes]`: where the stages with `executor = "kubernetes"` run as Jobs, and what their pods are made of."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from state.config_types import Duration, Table


class StagePods(Table):
    """What one stage's pod has otherwise than its pipeline's: every field of it, where given."""

    image: str | None = None
    gpu: int | None = Field(default=None, ge=0, le=64)
    requests: dict[str, str] | None = None
    limits: dict[str, str] | None = None
    pod: dict[str, Any] | None = None
    container: dict[str, Any] | None = None


class JobPods(Table):
    """A namespace for Jobs, and their pods (`airboss help pipelines`).

    `context` is the kubeconfig's (the current one without it); in a pod with neither, its service account. The workspace's files
    get there by `volume`, a PersistentVolumeClaim on which the workspace lies (below `volume_path`), or by `store`, an
    object store's URL that fsspec knows (`s3://bucket/prefix`); `helper` is the image that fetches and puts there: it has python3 with fsspec.
    `pod` and `container` are merged into what is made.
    """

    context: str | None = None
    kubeconfig: str | None = None
    namespace: str
    image: str
    gpu: int = Field(default=0, ge=0, le=64)
    gpu_resource: str = "nvidia.com/gpu"
    requests: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, str] = Field(default_factory=dict)
    service_account: str | None = None
    volume: str | None = None
    volume_path: str = ""
    store: str | None = None
    helper: str | None = None
    keep: Duration = 86400.0
    timeout: Duration = 10.0
    pod: dict[str, Any] = Field(default_factory=dict)
    container: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> JobPods:
        if (self.volume is None) == (self.store is None):
            raise ValueError("the workspace's files get to a Job by volume or by store: one of them")
        if self.helper is not None and self.store is None:
            raise ValueError("helper goes with store: on a volume nothing is fetched")
        if self.store is not None and "://" not in self.store:
            raise ValueError(f"store = {self.store!r} must be a URL such as s3://bucket/prefix")
        return self

    def for_stage(self, stage: StagePods | None) -> JobPods:
        """These with what the stage has otherwise."""
        return self if stage is None else self.model_copy(update=stage.model_dump(exclude_none=True))
