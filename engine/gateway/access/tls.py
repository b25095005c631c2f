"""TLS on the public port. Files that change make another context, for the connections that come after."""

from __future__ import annotations

import ssl
from pathlib import Path

from engine.gateway.access.watched import Watched
from state.access_config import AccessConfig
from state.words import UsageError

PROBE_CERT_FILE = "probe.pem"
"""In the gateway's directory: the certificate of the engine's prober, for a port that asks clients for theirs."""


class Certificates:
    """The server's certificate, and whose certificates clients must have."""

    def __init__(self, config: AccessConfig, gateway_dir: Path) -> None:
        """Reads the files. Raises UsageError when they cannot be used."""
        root = Path(config.root)
        self._cert, self._key = root / str(config.tls_cert), root / str(config.tls_key)
        self._client_cas = (root / config.tls_client_ca, gateway_dir / PROBE_CERT_FILE) if config.tls_client_ca else ()
        self._contexts = Watched(self._cert, self._load, also=(self._key, *self._client_cas))

    def context(self) -> ssl.SSLContext:
        """What the next connection is served with."""
        return self._contexts.value()

    def look(self) -> bool:
        """Read the files again now if they changed."""
        return self._contexts.look()

    def _load(self, cert: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(cert, self._key)
        except OSError as error:
            raise UsageError(
                f"[gateway] tls_cert {cert} with tls_key {self._key} cannot be used: {error}",
                hint="both must be PEM, the key without a passphrase, and belong together",
            ) from error
        for path in self._client_cas:
            if path.name == PROBE_CERT_FILE and not path.exists():
                continue  # a worker run by hand has no engine that probes it
            try:
                context.load_verify_locations(path)
            except OSError as error:
                raise UsageError(
                    f"[gateway] tls_client_ca {path} cannot be used: {error}", hint="it must be PEM"
                ) from error
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def certificates_of(config: AccessConfig, gateway_dir: Path) -> Certificates | None:
    """The certificates that are configured; None where the port speaks plain HTTP. Raises UsageError."""
    return Certificates(config, gateway_dir) if config.tls_cert else None
