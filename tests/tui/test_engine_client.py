"""EngineClient against a real server on a real Unix socket: what it returns, and what each failure becomes."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from console.client import EngineClient
from engine.api.schemas import VerbRequest
from state.words import Conflict, OperationFailed, TimedOut, Unreachable, UsageError


def test_it_reads_models(engine: Any) -> None:
    with EngineClient.at_socket(engine.socket_path) as client:
        assert client.snapshot().fleet[0].service == "chat"
        assert client.status().name == "demo"
        assert client.rollout("ro-2").events[0].action == "rollout.begin"
        assert client.log("run-3", "train").text.startswith("step 10")
        assert client.lineage("service/chat").children[0].ref == "release/charlm-1"
        assert client.lineage("service/chat", forward=True).label == "chat answers users"
        assert [a.id for a in client.alerts(all=True)] == [7, 6]
        assert client.get("/v1/status")["pid"] == 1


def test_no_engine_is_unreachable_with_the_way_out(tmp_path: Path) -> None:
    with EngineClient.at_socket(tmp_path / "none.sock") as client, pytest.raises(Unreachable) as caught:
        client.snapshot()
    assert "airboss up -d" in caught.value.hint
    assert caught.value.retryable


def test_an_error_on_the_wire_is_raised_as_what_it_was(engine: Any) -> None:
    with EngineClient.at_socket(engine.socket_path) as client:
        with pytest.raises(UsageError, match="there is no ro-99"):
            client.rollout("ro-99")
        engine.refuse = {"code": "conflict", "exit": 6, "message": "revision moved", "retryable": False, "hint": "look"}
        with pytest.raises(Conflict, match="revision moved") as caught:
            client.verb(VerbRequest(verb="rollback", ref="service/chat"))
        assert caught.value.hint == "look"


def test_a_verb_without_an_answer_in_time_may_still_be_done(engine: Any) -> None:
    engine.verb_delay_s = 0.6
    with EngineClient.at_socket(engine.socket_path) as client:
        with pytest.raises(TimedOut, match="may still be done"):
            client.verb(VerbRequest(verb="rollback", ref="service/chat"), timeout_s=0.2)
        with pytest.raises(Unreachable):
            client.verb(VerbRequest(verb="rollback", ref="service/chat", dry_run=True), timeout_s=0.2)


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            OperationFailed,
            "not one that this console understands",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", OperationFailed, "not one that this console understands"),
        (b"HTTP/1.1 502 Bad\r\ncontent-length: 4\r\n\r\noops", OperationFailed, "answered 502 to /v1/snapshot: oops"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{", Unreachable, "broke"),
        (b"", Unreachable, "broke"),
        (None, Unreachable, "did not answer within 0.3 s"),
    ],
)
def test_strange_answers_are_sentences(tmp_path: Path, answer: bytes | None, kind: type[Exception], words: str) -> None:
    path = tmp_path / "s.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        if answer is None:
            time.sleep(0.8)
        else:
            connection.sendall(answer)
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    with EngineClient.at_socket(path, timeout_s=0.3) as client, pytest.raises(kind, match=words):
        client.snapshot()
    listener.close()


def test_events_arrive_as_they_happen_and_the_end_is_told(engine: Any) -> None:
    with EngineClient.at_socket(engine.socket_path) as client:
        stream = client.events(after=engine.world.seq)
        threading.Timer(0.2, engine.change).start()
        assert next(stream).seq == 2
        engine.stop()
        assert list(stream) == []


async def test_the_asynchronous_client_does_the_same(engine: Any, tmp_path: Path) -> None:
    async with EngineClient.at_socket(engine.socket_path).asynchronous() as client:
        assert (await client.snapshot()).status.name == "demo"
        assert (await client.rollout("ro-2")).id == "ro-2"
        result = await client.verb(VerbRequest(verb="rollback", ref="service/chat", dry_run=True))
        assert result.plan is not None
        threading.Timer(0.2, engine.change).start()
        async for event in client.events(after=engine.world.seq):
            assert event.seq == 2
            break
    async with EngineClient.at_socket(tmp_path / "no.sock").asynchronous() as client:
        with pytest.raises(Unreachable):
            await client.snapshot()


def test_importing_it_is_light() -> None:
    heavy = ("httpcore", "httpx", "textual", "rich", "torch", "mlflow")
    code = f"import sys, console.client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True
    )
    assert done.stdout.strip() == "[]"
