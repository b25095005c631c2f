"""`[gateway]`: the data plane's settings."""

from __future__ import annotations

from pydantic import Field, model_validator

from state.config_types import Table


class GatewayConfig(Table):
    """The data plane's public address and size."""

    listen: str = "127.0.0.1:8080"
    workers: int = Field(default=2, ge=1, le=32)
    max_inflight: int = Field(default=256, ge=1)
    retries: int = Field(default=1, ge=0, le=3)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @model_validator(mode="after")
    def _listen(self) -> GatewayConfig:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"listen = {self.listen!r} must be HOST:PORT, with a port of 0-65535 (0 takes a free one)")
        return self
