"""`[gateway]`: the data plane's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from state.access_config import AccessConfig, AuthConfig, CacheConfig, RateConfig, RequestConfig
from state.config_types import Table


class GatewayConfig(Table):
    """The data plane's public address and size. `engine = "haproxy"` drives an installed HAProxy by the same table.

    `metrics_listen = "127.0.0.1:9464"` serves Prometheus's page of the first worker there, of the second one port on, and so on.
    `feedback_text` lets users' feedback hold texts (prompt, answer, correction), redacted, of those who consent to it.
    """

    engine: Literal["airboss", "haproxy"] = "airboss"
    listen: str = "127.0.0.1:8080"
    metrics_listen: str | None = None
    workers: int = Field(default=2, ge=1, le=32)
    max_inflight: int = Field(default=256, ge=1)
    retries: int = Field(default=1, ge=0, le=3)
    feedback_text: bool = False
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    auth: AuthConfig = AuthConfig()
    rate: RateConfig = RateConfig()
    requests: RequestConfig = RequestConfig()
    cache: CacheConfig = CacheConfig()

    def access(self, root: str) -> AccessConfig:
        """What a worker needs to know of TLS, authentication and limits. `root` is the workspace."""
        return AccessConfig(
            auth=self.auth,
            rate=self.rate,
            requests=self.requests,
            cache=self.cache,
            tls_cert=self.tls_cert,
            tls_key=self.tls_key,
            tls_client_ca=self.tls_client_ca,
            root=root,
            workers=self.workers,
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def metrics_address(self, index: int) -> tuple[str, int] | None:
        """Host and port of the Prometheus page of the worker in this place; None where none is served."""
        if self.metrics_listen is None:
            return None
        host, _, port = self.metrics_listen.rpartition(":")
        return host.strip("[]"), int(port) + index

    @model_validator(mode="after")
    def _metrics(self) -> GatewayConfig:
        if self.metrics_listen is not None:
            host, _, port = self.metrics_listen.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) <= 65535 - self.workers:
                raise ValueError(
                    f"metrics_listen = {self.metrics_listen!r} must be HOST:PORT; worker 2 has the port after it, and so on"
                )
        return self

    @model_validator(mode="after")
    def _listen(self) -> GatewayConfig:
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"listen = {self.listen!r} must be HOST:PORT, with a port of 0-65535 (0 takes a free one)")
        return self

    @model_validator(mode="after")
    def _tls(self) -> GatewayConfig:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key go together: the certificate chain and its private key")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca asks clients for certificates, which needs tls_cert and tls_key")
        return self
