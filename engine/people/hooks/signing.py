"""How a webhook is signed: the Standard Webhooks scheme (standardwebhooks.com), so that receivers' libraries fit. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

PREFIX = "whsec_"


def headers(secret: str | None, delivery_id: str, at: int, body: bytes) -> dict[str, str]:
    """`webhook-id`, `webhook-timestamp` and, with a secret, `webhook-signature`: v1, base64 HMAC-SHA256 of id.time.body."""
    said = {"webhook-id": delivery_id, "webhook-timestamp": str(at)}
    if secret is not None:
        signed = f"{delivery_id}.{at}.".encode() + body
        digest = hmac.new(key_of(secret), signed, hashlib.sha256).digest()
        said["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return said


def key_of(secret: str) -> bytes:
    """The bytes of a secret: what follows `whsec_` is base64, anything else is the key itself."""
    if secret.startswith(PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()
