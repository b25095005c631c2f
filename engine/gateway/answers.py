"""The gateway's own answers, and what may pass between client and replica."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from aiohttp import web
from multidict import CIMultiDict

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "trailers", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""RFC 9110 §7.6.1: these speak of one connection, not of the request."""
_NOT_UPSTREAM = HOP_BY_HOP | {"host", "content-length", "content-encoding", "expect", "x-request-id"}
"""Ours to set, or no longer true: the server has already inflated a compressed body."""
_NOT_DOWNSTREAM = HOP_BY_HOP | {"x-request-id"}
_CLIENT_ID = re.compile(r"[\w.@:-]{1,64}")


class Refused(Exception):
    """The request is not relayed; `answer` says why, `reason` counts it."""

    def __init__(self, reason: str, answer: web.Response) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answer = answer


def error_answer(
    status: int,
    kind: str,
    code: str,
    message: str,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """An error in the shape that OpenAI's clients know; `message` says what to do."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json", headers=headers)


def json_answer(body: object, status: int = 200) -> web.Response:
    """A JSON answer."""
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json")


def _dropped(headers: Mapping[str, str], always: frozenset[str]) -> frozenset[str]:
    connection = headers.get("Connection", "")
    return always | {name.strip().lower() for name in connection.split(",")} if connection else always


def upstream_headers(headers: Mapping[str, str], peer: str) -> CIMultiDict[str]:
    """A client's headers as a replica gets them. `x-airboss-*` is ours alone, so a client's own are left out."""
    drop = _dropped(headers, _NOT_UPSTREAM)
    kept = CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (lower := name.lower()) not in drop and not lower.startswith("x-airboss-")
    )
    if peer:
        kept["X-Forwarded-For"] = ", ".join((*headers_all(headers, "X-Forwarded-For"), peer))
    return kept


def headers_all(headers: Mapping[str, str], name: str) -> Iterable[str]:
    """Every value of a header that may stand several times."""
    return (value for key, value in headers.items() if key.lower() == name.lower())


def downstream_headers(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """A replica's headers as the client gets them, before ours are added."""
    drop = _dropped(headers, _NOT_DOWNSTREAM)
    return CIMultiDict(
        (name, value)
        for name, value in headers.items()
        if (lower := name.lower()) not in drop and not lower.startswith("x-airboss-")
    )


def client_id(headers: Mapping[str, str], peer: str) -> str:
    """Who called, for the ledger: `x-client-id`, else a digest of the credentials, else the peer's address."""
    given = headers.get("X-Client-Id", "")
    if _CLIENT_ID.fullmatch(given):
        return given
    if key := headers.get("Authorization"):
        return "key:" + hashlib.blake2b(key.encode(errors="replace"), digest_size=6).hexdigest()
    return peer
