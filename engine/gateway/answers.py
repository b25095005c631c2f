"""The gateway's own answers, and what may pass between client and replica."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping

from aiohttp import web

HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-connection", b"proxy-authenticate", b"proxy-authorization", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""RFC 9110 §7.6.1: these speak of one connection, not of the request."""
_NOT_UPSTREAM = HOP_BY_HOP | {b"host", b"content-length", b"content-encoding", b"expect", b"x-request-id"}
"""Ours to set, or no longer true: the server has already inflated a compressed body."""
_NOT_DOWNSTREAM = HOP_BY_HOP | {b"x-request-id", b"content-length"}
"""The length of what we pass on is stated by us: no length may stand twice."""
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


def header_line(name: str, value: str) -> bytes:
    """One header, ready to be sent. Nothing in `value` (a claim of somebody's token, say) can end the line early."""
    kept = value if value.isprintable() else "".join(ch for ch in value if ch.isprintable())
    return f"{name}: {kept}\r\n".encode()


def without(lines: bytes, name: bytes) -> bytes:
    """Header lines without those of `name` (lower case)."""
    prefix = name + b":"
    return b"".join(line for line in lines.splitlines(keepends=True) if not line.lower().startswith(prefix))


def upstream_lines(
    raw_headers: Iterable[tuple[bytes, bytes]], peer: str, withheld: frozenset[bytes] = frozenset()
) -> bytes:
    """A client's headers as a replica gets them: lines, ready to be sent.

    `x-airboss-*` is ours alone, so a client's own are left out, and so is what is `withheld` (lower case); the peer is
    added to `X-Forwarded-For`.
    """
    lines, forwarded = _kept(raw_headers, _NOT_UPSTREAM | withheld if withheld else _NOT_UPSTREAM)
    if peer:
        forwarded.append(peer.encode())
    if forwarded:
        lines.append(b"X-Forwarded-For: %s\r\n" % b", ".join(forwarded))
    return b"".join(lines)


def downstream_lines(raw_headers: Iterable[tuple[bytes, bytes]], ours: Mapping[str, str] | None = None) -> bytes:
    """A replica's headers as the client gets them: lines, ready to be sent, without those that we state (`ours`)."""
    return b"".join(_kept(raw_headers, _ours_aside(tuple(ours)) if ours else _NOT_DOWNSTREAM)[0])


@functools.lru_cache(256)
def _ours_aside(names: tuple[str, ...]) -> frozenset[bytes]:
    """What does not pass where we state the headers `names` ourselves: the same few sets again and again."""
    return _NOT_DOWNSTREAM | {name.lower().encode() for name in names}


def _kept(raw_headers: Iterable[tuple[bytes, bytes]], always: frozenset[bytes]) -> tuple[list[bytes], list[bytes]]:
    """(the lines that pass, the values of X-Forwarded-For). What `Connection` names does not pass either."""
    lines, forwarded, named = [], [], b""
    for name, value in raw_headers:
        lower = name.lower()
        if lower in always or lower.startswith(b"x-airboss-"):
            if lower == b"connection":
                named += b"," + value
        elif lower == b"x-forwarded-for":
            forwarded.append(value)
        else:
            lines.append(b"%s: %s\r\n" % (name, value))
    if named:
        drop = {word.strip().lower() for word in named.split(b",")}
        lines = [line for line in lines if line.partition(b":")[0].lower() not in drop]
        forwarded = [] if b"x-forwarded-for" in drop else forwarded
    return lines, forwarded


def client_id(headers: Mapping[str, str], peer: str) -> str:
    """Who called, for the ledger: `x-client-id`, else a digest of the credentials, else the peer's address."""
    given = headers.get("X-Client-Id", "")
    if _CLIENT_ID.fullmatch(given):
        return given
    if key := headers.get("Authorization"):
        return "key:" + hashlib.blake2b(key.encode(errors="replace"), digest_size=6).hexdigest()
    return peer
