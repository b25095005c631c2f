"""A real model server child on a real Unix socket: requests, streams, disconnects, drain, refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundles import CHARS, gpt_bundle

from adapters.local.child import ChildSpec
from engine.serving.compute.generate import generate_text
from engine.serving.loader import load_bundle
from engine.serving.models.gpt import GPTConfig

SMALL = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=64, vocab_size=len(CHARS))
LONG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=20_000, vocab_size=len(CHARS))
"""A context so long that a request runs for as long as a test needs."""


@dataclass
class Server:
    """One model server process."""

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        transport = httpx.HTTPTransport(uds=self.spec.socket)
        self.client = httpx.Client(transport=transport, base_url="http://model", timeout=60)

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def is_ready(self) -> bool:
        try:
            return self.client.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def metric(self, line: str) -> float:
        """The value of the series whose line starts with name and labels `line`."""
        found = [row for row in self.client.get("/metrics").text.splitlines() if row.startswith(line)]
        return float(found[0].rpartition(" ")[2])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Log lines of one kind."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def exit(self) -> tuple[int, dict[str, Any]]:
        """Wait for the end; returns the exit code and the exit record."""
        code = self.process.wait(timeout=40)
        return code, json.loads(self.spec.exit_path.read_text())


StartServer = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartServer]:
    servers: list[Server] = []

    def start_server(
        config: GPTConfig = SMALL,
        serving: dict[str, Any] | None = None,
        damage: str = "",
        is_ready: bool = True,
        **payload: Any,
    ) -> Server:
        number = len(servers)
        bundle, run_dir = tmp_path / f"b{number}", tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        digest = gpt_bundle(bundle, config, serving=serving, spread=10)
        if damage:
            (bundle / damage).write_bytes((bundle / damage).read_bytes()[:-1] + b"!")
        spec = ChildSpec(
            spawn_id=f"s{number}",
            kind="model",
            run_dir=run_dir,
            socket=str(tmp_path / f"m{number}.sock"),
            digest=digest,
            payload={
                "bundle": str(bundle),
                "service": "chat",
                "env": "dev",
                "release_id": "charlm-1",
                "threads": 1,
                **payload,
            },
        )
        spec_path = run_dir / f"s{number}.spec.json"
        spec.write(spec_path)
        log = tmp_path / f"s{number}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.serving.server", str(spec_path)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(spec, process, log)
        servers.append(server)
        if is_ready:
            server.wait_until(server.is_ready)
        return server

    yield start_server
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
        server.process.wait()
        server.client.close()


def stream_texts(lines: Iterator[str]) -> tuple[list[dict[str, Any]], bool]:
    """The JSON events of a stream, and whether it ended with [DONE]."""
    events: list[dict[str, Any]] = []
    for line in lines:
        if line == "data: [DONE]":
            return events, True
        if line.startswith("data: "):
            events.append(json.loads(line.removeprefix("data: ")))
    return events, False


def test_it_says_who_it_is_and_answers_in_openais_words(start: StartServer) -> None:
    server = start()
    assert oct(os.stat(server.spec.socket).st_mode & 0o777) == "0o600"
    shake = server.client.get("/admin/handshake").json()
    assert (
        shake.items()
        >= {"spawn_id": "s0", "digest": server.spec.digest, "release_id": "charlm-1", "ready": True}.items()
    )
    (model,) = server.client.get("/v1/models").json()["data"]
    assert (model["id"], model["root"], model["max_model_len"]) == ("chat", "charlm-1", 64)
    asked = {"model": "chat", "prompt": "to be or not", "max_tokens": 20, "temperature": 0}
    whole = server.client.post("/v1/completions", json=asked, headers={"x-request-id": "req-77"})
    choice = whole.json()["choices"][0]
    assert (whole.status_code, whole.headers["x-request-id"], choice["finish_reason"]) == (200, "req-77", "length")
    loaded = load_bundle(Path(server.spec.payload["bundle"]), server.spec.digest)
    assert choice["text"] == generate_text(loaded, "to be or not", 20)
    streamed = server.client.post(
        "/v1/completions", json={**asked, "stream": True, "stream_options": {"include_usage": True}}
    )
    events, is_done = stream_texts(iter(streamed.text.splitlines()))
    assert is_done
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == choice["text"]
    assert events[-2]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"]["completion_tokens"] == 20
    line = next(line for line in server.events("request") if line["request_id"] == "req-77")
    assert (line["status"], line["completion_tokens"]) == (200, 20)
    assert choice["text"] not in server.log.read_text()


def test_a_seed_fixes_the_text_whatever_else_is_in_the_batch(start: StartServer) -> None:
    server = start(serving={"max_batch": 4})

    def ask(number: int) -> str:
        body = {
            "prompt": "abcdefgh"[: 1 + number % 8],
            "max_tokens": 10 + number,
            "temperature": 0.9,
            "top_k": 9,
            "seed": number,
        }
        return str(server.client.post("/v1/completions", json=body).json()["choices"][0]["text"])

    alone = [ask(number) for number in range(12)]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, range(12)))
    assert together == alone


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place_at_once(start: StartServer, stream: bool) -> None:
    server = start(LONG, {"max_batch": 1})
    body = {"prompt": "abc", "max_tokens": 19_000, "stream": stream}
    if stream:
        with server.client.stream("POST", "/v1/completions", json=body) as response:
            assert next(response.iter_lines()).startswith("data: ")
    else:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v1/completions", json=body, timeout=0.3)
    aborted = 'vllm:request_success_total{engine="0",finished_reason="abort"'
    server.wait_until(lambda: server.metric(aborted) == 1.0, timeout_s=10)
    short = server.client.post("/generate", json={"prompt": "abc", "max_tokens": 3})
    assert short.json()["tokens_generated"] == 3


def test_sigterm_lets_a_running_stream_finish_and_exits_0(start: StartServer) -> None:
    server = start(LONG, {"drain_accept_s": 0.3, "drain_deadline_s": 60})
    body = {"prompt": "abc", "max_tokens": 1500, "stream": True}
    other = httpx.Client(transport=httpx.HTTPTransport(uds=server.spec.socket), base_url="http://model")
    with server.client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: other.get("/ready").status_code == 503, timeout_s=5)
        assert "draining" in other.get("/ready").json()["reason"]
        events, is_done = stream_texts(lines)
    assert is_done
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    code, record = server.exit()
    assert (code, record["code"], record["cause"]) == (0, 0, "exited")
    assert not Path(server.spec.socket).exists()


def test_a_stream_that_outlasts_the_drain_is_cut_with_an_error_and_never_looks_whole(start: StartServer) -> None:
    server = start(LONG, {"drain_accept_s": 0.1, "drain_deadline_s": 0.3})
    body = {"prompt": "abc", "max_tokens": 19_000, "stream": True}
    lines: list[str] = []

    def read(response: httpx.Response) -> None:
        for line in response.iter_lines():
            if not lines:
                server.process.send_signal(signal.SIGTERM)
            lines.append(line)

    with (
        server.client.stream("POST", "/v1/completions", json=body) as response,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        read(response)
    events, is_done = stream_texts(iter(lines))
    assert not is_done
    assert events[-1]["error"]["code"] == "draining"
    assert server.exit()[0] == 0


def test_sigterm_while_loading_exits_0(start: StartServer) -> None:
    server = start(is_ready=False)
    server.wait_until(lambda: Path(server.spec.socket).exists())
    server.process.send_signal(signal.SIGTERM)
    assert server.exit()[0] == 0


def test_a_corrupted_file_is_refused_with_a_sentence_in_the_exit_record(start: StartServer) -> None:
    server = start(damage="model.safetensors", is_ready=False)
    code, record = server.exit()
    assert (code, record["code"]) == (1, 1)
    assert "model.safetensors was altered" in record["cause"]
    assert "Traceback" not in server.log.read_text()


def test_faults_are_refused_unless_allowed_and_then_come_at_their_rate(start: StartServer) -> None:
    fault = {"fault": {"latency_ms": 20, "error_rate": 0.5, "seed": 5}}
    refused = start(serving=fault, is_ready=False)
    code, record = refused.exit()
    assert code == 1
    assert "asks for injected faults" in record["cause"]
    allowed = start(serving=fault, allow_faults=True)
    codes = []
    for _ in range(40):
        response = allowed.client.post("/generate", json={"prompt": "a", "max_tokens": 1})
        assert response.elapsed.total_seconds() >= 0.02
        codes.append(response.status_code)
    assert set(codes) == {200, 500}
    assert allowed.metric(
        'vllm:admission_rejections_total{engine="0",model_name="chat",reason="injected_fault"}'
    ) == codes.count(500)
    assert allowed.is_ready()
