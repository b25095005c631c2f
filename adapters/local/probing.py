"""What the engine's prober shows at the gateway's public port: a key where callers need one, a certificate likewise.

Both lie in the gateway's directory, for this user alone, and outlive the engine: workers go on knowing them.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PROBE_KEY_FILE = "probe.key"
PROBE_CERT_FILE = "probe.pem"
CERT_LIFE = datetime.timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Visitor:
    """How to come in at the public port: the key to send, the server's certificate to trust, one's own to show."""

    key: str = ""
    server: Path | None = None
    """None: the port speaks plain HTTP."""
    client: Path | None = None


def probe_key(gateway_dir: Path) -> str:
    """The prober's key, made when there is none."""
    path = gateway_dir / PROBE_KEY_FILE
    with contextlib.suppress(OSError):
        if known := path.read_text(encoding="ascii").strip():
            return known
    made = "ab-" + secrets.token_urlsafe(32)
    _write(path, made.encode())
    return made


def probe_certificate(gateway_dir: Path) -> Path:
    """The file with the prober's self-signed certificate and its key, made when there is none."""
    path = gateway_dir / PROBE_CERT_FILE
    if path.exists():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "airboss prober")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + CERT_LIFE)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(path, certificate.public_bytes(serialization.Encoding.PEM) + private)
    return path


def _write(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.replace(aside, path)
