"""A rollout over time, as the API shows it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TrackCourse(BaseModel):
    """One track over time, oldest point first. None where nothing was asked."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    track: str
    release_id: str
    requests: tuple[int, ...]
    error_ratio: tuple[float | None, ...]
    """Share of bad requests, 0 to 1."""
    p50_ms: tuple[float | None, ...]
    p95_ms: tuple[float | None, ...]


class CourseView(BaseModel):
    """A rollout over time: points of `step_s` seconds from `since` (Unix seconds) on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    since: float
    step_s: float
    weight: tuple[int, ...]
    """What the newer release should have, percent."""
    tracks: tuple[TrackCourse, ...]
