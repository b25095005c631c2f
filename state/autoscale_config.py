"""`[service.X.autoscale]`: how many replicas a service may have, and when."""

from __future__ import annotations

from pydantic import Field, model_validator

from state.config_types import Duration, Table


class Autoscale(Table):
    """Local autoscaling of a service's replicas; without this table there is none, and `replicas` says how many."""

    min: int = Field(default=1, ge=1, le=64)
    """Never fewer."""
    max: int = Field(default=4, ge=1, le=64)
    """Never more; fewer when memory ends before."""
    target_utilisation: float = Field(default=0.75, ge=0.1, le=0.95)
    """Share of the replicas' concurrency, and of their KV cache, that shall be in use: 0.7 to 0.8 leaves room for bursts."""
    concurrency: int = Field(default=0, ge=0)
    """Requests a replica does well at once; 0: as many as it takes into a batch."""
    up_window: Duration = Field(default=10.0, ge=6.0)
    """Load above the target for so long, on average, adds replicas at once."""
    down_window: Duration = 300.0
    """Only what the busiest moment of so long did not need is given back, one replica at a time."""

    @model_validator(mode="after")
    def _in_order(self) -> Autoscale:
        if self.min > self.max:
            raise ValueError(f"min = {self.min} is above max = {self.max}")
        if self.down_window < self.up_window:
            raise ValueError("down_window must be at least up_window: giving back is slower than adding")
        return self
