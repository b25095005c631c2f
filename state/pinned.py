"""Speaking TLS to our own gateway: it is known by its very certificate, not by a name that somebody vouches for."""

from __future__ import annotations

import ssl
from pathlib import Path

from state.words import UsageError


def pinned_context(certificate: Path, client: Path | None = None) -> ssl.SSLContext:
    """A client's context that trusts the server with `certificate` alone; `client` holds our own, with its key.

    Reads files. Raises UsageError when they cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the address is this host's; the certificate itself is what is compared
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
        if client is not None:
            context.load_cert_chain(client)
    except OSError as error:
        raise UsageError(
            f"the gateway's certificate {certificate} cannot be used: {error}", hint="see [gateway] tls_cert"
        ) from error
    return context
