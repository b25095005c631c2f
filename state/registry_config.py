"""`[registry]`: where the model registry is, who we are to it, how long it may take. Secrets are references."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from state.config_types import Duration, Table
from state.server_config import ServerAccess


def _server_url(value: str) -> str:
    if not re.match(r"https?://[^/]", value):
        raise ValueError("must be http://host:port or https://host, the address of an MLflow server")
    if re.match(r"[^/]+//[^@/]*:[^@/]*@", value):
        raise ValueError("holds a password: take it out, and give access = { username, password } beside it")
    return value.rstrip("/")


class RegistryConfig(Table):
    """The model registry: embedded MLflow unless `url` is given (`airboss help mlflow`).

    `timeout` is for one request to the server, `access` says who we are to it; every `watch` the aliases we set are looked
    at for another's hand (0: never).
    """

    url: str | None = None
    timeout: Duration = Field(default=20.0, ge=1, le=600)
    access: ServerAccess = ServerAccess()
    watch: Duration = 30.0

    @field_validator("url")
    @classmethod
    def _of_a_server(cls, value: str | None) -> str | None:
        return value if value is None else _server_url(value)
