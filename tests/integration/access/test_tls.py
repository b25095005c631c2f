"""TLS on the public port: versions, certificates that turn over, clients that must show theirs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest

from adapters.local.probing import probe_certificate
from engine.gateway.access.tls import Certificates
from state.access_config import AccessConfig
from state.pinned import pinned_context
from state.words import UsageError

TLS = {"tls_cert": "cert.pem", "tls_key": "key.pem"}
REQUEST = b'POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 32\r\n\r\n{"model": "chat", "prompt": "x"}'


async def connect(house: Any, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(10):
        return await asyncio.open_connection("127.0.0.1", house.port, ssl=context)


async def ask_over(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The status line of one request on an open connection, its answer read to the end."""
    writer.write(REQUEST)
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        await reader.readexactly(length)
    return head.split(b"\r\n")[0]


async def test_requests_and_streams_go_over_tls_1_2_or_newer_and_nothing_older(house: Any, issue: Any) -> None:
    issue(house.root)
    await house.start(TLS)
    assert house.url.startswith("https:")
    trusted = pinned_context(house.root / "cert.pem")
    reader, writer = await connect(house, trusted)
    assert await ask_over(reader, writer) == b"HTTP/1.1 200 OK"
    assert writer.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
    writer.close()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(house, old)
    assert (await house.wire(REQUEST)).count(b"200 OK") == 0, "plain HTTP is no way in"


async def test_a_new_certificate_is_shown_to_new_connections_while_old_ones_go_on(house: Any, issue: Any) -> None:
    issue(house.root)
    await house.start(TLS)
    before = pinned_context(house.root / "cert.pem")
    reader, writer = await connect(house, before)
    assert await ask_over(reader, writer) == b"HTTP/1.1 200 OK"
    (house.root / "cert.pem").write_text("half written")
    assert house.certificates.look() is False
    still = await connect(house, before)
    assert await ask_over(*still) == b"HTTP/1.1 200 OK"
    issue(house.root)
    assert house.certificates.look() is True
    with pytest.raises(ssl.SSLError):
        await connect(house, before)
    renewed = await connect(house, pinned_context(house.root / "cert.pem"))
    assert await ask_over(*renewed) == b"HTTP/1.1 200 OK"
    assert await ask_over(reader, writer) == b"HTTP/1.1 200 OK", "the connection from before was not dropped"
    for _, open_writer in ((reader, writer), still, renewed):
        open_writer.close()


async def test_where_clients_must_show_a_certificate_only_the_cas_and_the_prober_come_in(
    house: Any, issue: Any
) -> None:
    issue(house.root)
    authority = issue(house.root, "the clients' CA", "ca-")
    issue(house.root, "ana", "ana-", authority)
    issue(house.root, "mallory", "mallory-")
    probe = probe_certificate(house.root)
    await house.start({**TLS, "tls_client_ca": "ca-cert.pem"})
    server = house.root / "cert.pem"

    async def comes_in(name: str | None) -> bool:
        context = pinned_context(server, probe if name == "prober" else None)
        if name not in (None, "prober"):
            context.load_cert_chain(house.root / f"{name}-cert.pem", house.root / f"{name}-key.pem")
        try:
            reader, writer = await connect(house, context)
            line = await ask_over(reader, writer)
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            return False
        writer.close()
        return line == b"HTTP/1.1 200 OK"

    assert [await comes_in(name) for name in ("ana", "prober", "mallory", None)] == [True, True, False, False]
    assert probe.stat().st_mode & 0o077 == 0 and probe_certificate(house.root) == probe
    assert len(house.backend.seen) == 2


def test_a_key_of_another_certificate_is_refused_at_the_start_with_both_files(tmp_path: Path, issue: Any) -> None:
    issue(tmp_path)
    issue(tmp_path, stem="other-")
    config = AccessConfig(tls_cert="cert.pem", tls_key="other-key.pem", root=str(tmp_path))
    with pytest.raises(UsageError, match=r"cert\.pem.*other-key\.pem"):
        Certificates(config, tmp_path)
