"""What `doctor` has to say of the gateway's public port: who may use it, and whether what it needs is there."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from state.gateway_config import GatewayConfig

EXPIRY_NOTICE = timedelta(days=14)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `level` is ok, warn or fail."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    fix: str = ""


def access_findings(gateway: GatewayConfig, root: Path) -> Iterator[Finding]:
    """The port's exposure, its certificate, its keys. Reads files."""
    is_open = not _is_loopback(gateway.address[0])
    if is_open and gateway.auth.mode == "none":
        yield Finding(
            "access",
            "warn",
            f"anyone who reaches {gateway.listen} may ask",
            "set [gateway.auth] mode; `airboss help access`",
        )
    if is_open and not gateway.tls_cert:
        yield Finding("tls", "warn", f"{gateway.listen} speaks plain HTTP", "set [gateway] tls_cert and tls_key")
    if gateway.tls_cert:
        yield _certificate(root / gateway.tls_cert)
    if gateway.auth.takes_keys:
        yield _keys(root / gateway.auth.keys_file)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _certificate(path: Path) -> Finding:
    from cryptography import x509

    try:
        until = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        return Finding("tls", "fail", f"{path} cannot be read: {error}", "put a PEM certificate there")
    left = until - datetime.now(UTC)
    if left <= timedelta():
        return Finding(
            "tls", "fail", f"{path} expired on {until:%Y-%m-%d}", "renew it; workers take it up within a second"
        )
    found = f"{path.name} is good until {until:%Y-%m-%d}"
    if left < EXPIRY_NOTICE:
        return Finding("tls", "warn", found, "renew it; workers take it up within a second")
    return Finding("tls", "ok", found)


def _keys(path: Path) -> Finding:
    from state.key_file import read_keys
    from state.words import UsageError

    try:
        keys = read_keys(path)
    except UsageError as error:
        return Finding("keys", "fail", error.message, "workers go on with the version before; mend the file")
    now = datetime.now(UTC).timestamp()
    good = sum(not key.is_expired(now) for key in keys)
    if not good:
        return Finding("keys", "warn", "no key is good, so no key lets anybody in", "`airboss gateway key add NAME`")
    return Finding("keys", "ok", f"{good} of {len(keys)} keys are good")
