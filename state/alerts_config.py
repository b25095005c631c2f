"""`[alerts]`: who is told of what is wrong."""

from __future__ import annotations

from typing import Literal

from state.config_types import Duration, Table
from state.server_config import ServerAccess


class AlertsConfig(Table):
    """Who is told. With none of webhook, command and alertmanager, `doctor` says that no one is paged.

    `alertmanager` lists every peer's address (`airboss help alertmanager`). `evaluate = "prometheus"` leaves burn rates and the canary's
    traffic to the rules of `airboss export rules`.
    """

    webhook: str | None = None
    command: tuple[str, ...] = ()
    heartbeat_url: str | None = None
    heartbeat_interval: Duration = 60.0
    alertmanager: tuple[str, ...] = ()
    alertmanager_access: ServerAccess = ServerAccess()
    evaluate: Literal["engine", "prometheus"] = "engine"
