"""Who we are to a cluster: kubeconfig contexts (exec plugins, tokens, certificates) and in-cluster accounts, by the client library.

The library is imported here alone, and only where a configuration has a cluster: it costs a second.
"""

from __future__ import annotations

import os
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from state.words import Denied

IN_CLUSTER = "KUBERNETES_SERVICE_HOST"


@dataclass(frozen=True, slots=True)
class Access:
    """An API server, what every request to it carries, and until when that is good (Unix seconds; None when it does not say)."""

    host: str
    headers: dict[str, str] = field(default_factory=dict)
    tls: ssl.SSLContext | bool = True
    expires_at: float | None = None
    proxy: str | None = None


def read_access(context: str | None, kubeconfig: str | None, root: Path) -> Access:
    """Read the credentials as they are now. Blocks: files are read, an exec plugin may run. Raises Denied."""
    from kubernetes import client, config

    found = client.Configuration()
    try:
        if context is None and kubeconfig is None and IN_CLUSTER in os.environ:
            config.load_incluster_config(client_configuration=found)  # type: ignore[no-untyped-call]
        else:
            file = str(root / Path(kubeconfig).expanduser()) if kubeconfig else None
            config.load_kube_config(config_file=file, context=context, client_configuration=found)  # type: ignore[no-untyped-call]
    except Exception as error:
        # The library raises its own error, and what YAML, files and plugins raise; each means: no credentials.
        raise Denied(
            f"no credentials for the cluster (context {context or 'current'}): {error}",
            hint="`kubectl config get-contexts` shows what there is; targets.context and targets.kubeconfig choose",
            code="kube_credentials",
        ) from error
    return access_of(found)


def access_of(found: Any) -> Access:
    """What the library has loaded, as our client takes it."""
    headers = {}
    for setting in found.auth_settings().values():
        if setting["in"] == "header" and setting["value"]:
            headers[setting["key"]] = setting["value"]
    try:
        tls: ssl.SSLContext | bool = False
        if found.host.startswith("https://"):
            context = ssl.create_default_context(cafile=found.ssl_ca_cert)
            if not found.verify_ssl:
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if found.cert_file:
                context.load_cert_chain(found.cert_file, found.key_file)
            tls = context
    except (OSError, ssl.SSLError) as error:
        raise Denied(
            f"the certificates for {found.host} cannot be used: {error}",
            hint="look at the context's cluster and user in the kubeconfig",
            code="kube_credentials",
        ) from error
    ends = [
        _token_end(headers.get("authorization", "").removeprefix("Bearer ")),
        _certificate_end(found.cert_file) if found.cert_file else None,
    ]
    known = [end for end in ends if end is not None]
    return Access(found.host.rstrip("/"), headers, tls, min(known, default=None), found.proxy or None)


def _token_end(token: str) -> float | None:
    """`exp` of a JSON Web Token; it is not ours to verify."""
    import jwt

    with suppress(jwt.PyJWTError, ValueError, TypeError):
        return float(jwt.decode(token, options={"verify_signature": False})["exp"])
    return None


def _certificate_end(path: str) -> float | None:
    from cryptography import x509

    with suppress(OSError, ValueError):
        return x509.load_pem_x509_certificate(Path(path).read_bytes()).not_valid_after_utc.timestamp()
    return None


def expiry_said(expires_at: float | None, now: float | None = None) -> str:
    """For `status`: "" when it is not known."""
    if expires_at is None:
        return ""
    left = expires_at - (time.time() if now is None else now)
    if left <= 0:
        return "credentials have expired"
    return (
        f"credentials expire in {left / 86400:.0f} d" if left > 172800 else f"credentials expire in {left / 60:.0f} min"
    )
