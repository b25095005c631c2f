"""How MLflow's client in this process reaches a server: who we are to it, how long it waits. It takes both from the environment."""

from __future__ import annotations

import math
import os
from pathlib import Path

from state.server_config import Credentials
from state.words import UsageError

TIMEOUT_S = 20.0
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
_WHO = (
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
)


def prepare(credentials: Credentials | None, timeout_s: float) -> int | None:
    """Set MLflow's environment for this process; returns a descriptor to keep open, where a certificate needs one.

    Without credentials what the environment says of them stays. MLflow tries each request once: whoever calls tries again
    (`adapters.guard`), with one limit over all tries. Raises UsageError for a certificate that cannot be read.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, math.ceil(timeout_s)))
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    if credentials is None:
        return None
    held = _one_pem(credentials.client) if credentials.client else None
    user, password = credentials.basic or ("", "")
    given = (credentials.token, user, password, credentials.ca or "", f"/proc/self/fd/{held}" if held else "")
    for name, value in zip(_WHO, given, strict=True):
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    return held


def _one_pem(client: tuple[str, str]) -> int:
    """Certificate and key as the one file that MLflow takes: in memory, so that the key is on no disk twice."""
    try:
        content = b"\n".join(Path(name).read_bytes() for name in client)
    except OSError as error:
        raise UsageError(
            f"the client certificate cannot be read: {error}", hint="see [registry] access: cert and key"
        ) from error
    held = os.memfd_create("airboss-client-cert")
    os.write(held, content)
    return held
