"""A replica behind a foreign server: the same outside as ours, whatever the foreign one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundles import seal

from adapters.local.child import ChildSpec
from adapters.local.spawn import Spawner

FOREIGN = Path(__file__).with_name("foreign_server.py")
QUICK = {"drain_accept_s": 0.0, "drain_deadline_s": 5.0, "stop_grace_s": 3.0}


def command(*more: str, listens: tuple[str, ...] = ("--port", "{port}")) -> dict[str, Any]:
    """A serving table for the foreign server of this test."""
    return {"backend": "command", "command": [sys.executable, str(FOREIGN), *listens, *more], **QUICK}


def make_release(root: Path, serving: dict[str, Any]) -> str:
    """A release of a model that only the foreign server could load; returns its digest."""
    root.mkdir(parents=True)
    (root / "weights.gguf").write_bytes(b"GGUF of some kind")
    (root / "serving.json").write_text(json.dumps(serving))
    return seal(root, "chat-1")


@dataclass
class Replica:
    """One front and what is behind it."""

    spec: ChildSpec
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        transport = httpx.HTTPTransport(uds=self.spec.socket)
        self.client = httpx.Client(transport=transport, base_url="http://model", timeout=20)

    def ready(self) -> dict[str, Any]:
        try:
            return dict(self.client.get("/ready").json())
        except httpx.TransportError:
            return {"ready": False, "reason": "not there yet"}

    def until(self, holds: Callable[[], bool], timeout_s: float = 90.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def until_ready(self) -> Replica:
        self.until(lambda: self.process.poll() is not None or bool(self.ready()["ready"]))
        assert self.process.poll() is None, self.log.read_text()
        return self

    def asked(self) -> dict[str, Any]:
        """What the foreign server was last asked, and how many streams were given up."""
        return dict(self.client.post("/v1/embeddings", json={"input": "x"}).json())

    def lines(self, event: str) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def end(self) -> tuple[int, str]:
        code = self.process.wait(timeout=90)
        return code, str(json.loads(self.spec.exit_path.read_text())["cause"])

    def term(self) -> tuple[int, str]:
        self.process.terminate()
        return self.end()


Start = Callable[..., Replica]


def broken_stream(
    replica: Replica,
    body: dict[str, Any],
    headers: dict[str, str] | None = None,
    on_first: Callable[[], None] = lambda: None,
) -> str:
    """What came of a stream that breaks off; `on_first` is called with its first bytes."""
    got: list[str] = []

    def read() -> None:
        with replica.client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
            for text in response.iter_text():
                if not got:
                    on_first()
                got.append(text)

    with pytest.raises(httpx.RemoteProtocolError):
        read()
    return "".join(got)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Replica] = []

    def begin(serving: dict[str, Any], release: dict[str, Any] | None = None, damage: bool = False) -> Replica:
        number, run_dir = len(started), tmp_path / "run"
        run_dir.mkdir(exist_ok=True)
        bundle = tmp_path / f"release {number}"
        digest = make_release(bundle, release or {})
        if damage:
            (bundle / "weights.gguf").write_bytes(b"GGUF of some sort")
        payload = {"bundle": str(bundle), "service": "chat", "env": "dev", "release_id": "chat-1", "serving": serving}
        spec = ChildSpec(f"b{number}", "model", run_dir, str(tmp_path / f"b{number}.sock"), digest, payload)
        child = Spawner(run_dir, tmp_path).spawn(spec, "engine.serving.server")
        assert child.popen is not None
        started.append(Replica(spec, child.popen, tmp_path / f"b{number}.log"))
        return started[-1]

    yield begin
    for replica in started:
        if replica.process.poll() is None:
            replica.process.kill()
        replica.process.wait()
        replica.client.close()


def is_there(pid: int) -> bool:
    """The process runs (a zombie that nobody has collected yet does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_it_looks_like_our_own_server_and_passes_everything_on(start: Start) -> None:
    torch_only = {"max_batch": 4, "dtype": "float32"}
    serving = {
        **command("{model}", "--", "{api_key}"), "model_name": "foreign-model", "metrics_profile": "llamacpp",
        "ready_path": "/health", "env": {"WORDS": "{port}"},
    }  # fmt: skip
    replica = start(serving, release=torch_only).until_ready()
    assert oct(os.stat(replica.spec.socket).st_mode & 0o777) == "0o600"
    shake = replica.client.get("/admin/handshake").json()
    assert (shake["spawn_id"], shake["digest"], shake["ready"]) == ("b0", replica.spec.digest, True)
    assert (shake["serving"]["backend"], shake["serving"]["env"]) == ("command", ["WORDS"])
    assert replica.client.get("/v1/models").json()["data"][0]["id"] == "chat"
    whole = replica.client.post(
        "/v1/completions", json={"model": "chat", "prompt": "to be", "max_tokens": 3, "odd": [1]},
        headers={"x-request-id": "req-9"},
    )  # fmt: skip
    assert (whole.status_code, whole.json()["choices"][0]["text"]) == (200, " 0 1 2")
    assert whole.headers["x-request-id"] == "req-9"
    stream = replica.client.post("/v1/chat/completions", json={
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "stream": True,
    })  # fmt: skip
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert stream.text.count("data: ") == 4 and stream.text.endswith("data: [DONE]\n\n")
    short = replica.client.post("/generate", json={"prompt": "a", "max_tokens": 2, "temperature": 0})
    assert short.json() == {"text": " 0 1", "tokens_generated": 2}
    refused = replica.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 200_000})
    assert (refused.status_code, refused.json()["error"]["message"]) == (400, "too long")
    replica.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, "odd": [1]})
    assert replica.asked()["seen"].items() >= {"model": "foreign-model", "odd": [1], "prompt": "a"}.items()
    assert len(replica.asked()["seen"]["authorization"]) > 20
    (line,) = [entry for entry in replica.lines("request") if entry["request_id"] == "req-9"]
    assert (line["status"], line["route"]) == (200, "/v1/completions")
    assert "loading the model" in {entry["line"] for entry in replica.lines("backend")}
    assert "to be" not in replica.log.read_text()
    assert replica.term() == (0, "exited")
    assert not Path(replica.spec.socket).exists()


def test_its_metrics_are_shown_under_vllms_names_with_what_it_does_not_say(start: Start) -> None:
    replica = start({**command(listens=("--uds", "{socket}")), "metrics_profile": "llamacpp"}).until_ready()
    replica.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 3, "stream": True})
    lines = replica.client.get("/metrics").text.splitlines()
    labels = 'engine="0",model_name="chat"'
    for line in (
        "llamacpp:requests_processing 3",
        f"vllm:num_requests_running{{{labels}}} 3.0",
        f"vllm:num_requests_waiting{{{labels}}} 2.0",
        f"vllm:kv_cache_usage_perc{{{labels}}} 0.25",
        f"vllm:generation_tokens_total{{{labels}}} 41.0",
        f"vllm:time_to_first_token_seconds_count{{{labels}}} 1.0",
        'vllm:request_success_total{engine="0",finished_reason="stop",model_name="chat"} 1.0',
    ):
        assert line in lines
    assert sum(line.startswith("# TYPE vllm:num_requests_running") for line in lines) == 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"model": "other", "prompt": "a"}', 404, "model_not_found"),
        (b'{"prompt": "' + b"a" * (1 << 20) + b'"}', 413, "body_too_large"),
    ],
)
def test_a_request_that_cannot_be_meant_is_not_passed_on(shared: Replica, body: bytes, status: int, code: str) -> None:
    answer = shared.client.post("/v1/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A replica for tests that leave it as they found it."""
    root = tmp_path_factory.mktemp("shared")
    digest = make_release(root / "release", {})
    payload = {"bundle": str(root / "release"), "service": "chat", "release_id": "chat-1", "serving": command()}
    spec = ChildSpec("shared", "model", root, str(root / "s.sock"), digest, payload)
    child = Spawner(root, root).spawn(spec, "engine.serving.server")
    assert child.popen is not None
    replica = Replica(spec, child.popen, root / "shared.log").until_ready()
    yield replica
    replica.process.kill()
    replica.process.wait()


def test_a_client_that_leaves_ends_the_foreign_stream(shared: Replica) -> None:
    before = shared.asked()["aborted"]
    body = {"prompt": "long", "max_tokens": 5, "stream": True}
    with shared.client.stream("POST", "/v1/completions", json=body) as response:
        assert next(response.iter_lines()).startswith("data: ")
    shared.until(lambda: shared.asked()["aborted"] == before + 1)
    shared.until(lambda: "client_gone" in {line.get("code") for line in shared.lines("request")})


def test_a_deadline_cuts_a_stream_with_an_error_and_no_end(shared: Replica) -> None:
    body = {"prompt": "long", "max_tokens": 5, "stream": True}
    got = broken_stream(shared, body, {"x-airboss-deadline-ms": "200"})
    assert "deadline_exceeded" in got and "[DONE]" not in got


def test_a_server_that_dies_in_a_stream_ends_the_replica_with_its_last_words(start: Start) -> None:
    replica = start(command()).until_ready()
    body = {"prompt": "die", "max_tokens": 50, "stream": True}
    got = broken_stream(replica, body)
    assert "backend_unavailable" in got and "[DONE]" not in got
    replica.until(lambda: "killed by SIGKILL" in str(replica.ready()["reason"]))
    assert replica.client.get("/health").status_code == 503
    refused = replica.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    code, cause = replica.end()
    assert code == 1
    assert "was killed by SIGKILL; its last words: loading the model" in cause


def test_a_server_that_cannot_load_says_why_in_the_exit_record(start: Start) -> None:
    code, cause = start(command("--mode", "dead")).end()
    assert code == 1
    assert "ended with code 3; its last error: OSError: no such model: the disk has none; its last words:" in cause


def test_a_slow_start_is_waited_for_and_said(start: Start) -> None:
    replica = start({**command("--mode", "slow"), "probe": "chat"})
    replica.until(lambda: "no token" in str(replica.ready()["reason"]))
    early = replica.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1})
    assert (early.status_code, early.json()["error"]["code"]) == (503, "starting")
    replica.until_ready()
    short = replica.client.post("/generate", json={"prompt": "a", "max_tokens": 2})
    assert short.json() == {"text": " 0 1", "tokens_generated": 2}


@pytest.mark.parametrize("mode", ["deaf", "mute"])
def test_one_that_never_answers_is_ended_with_a_sentence(start: Start, mode: str) -> None:
    replica = start({**command("--mode", mode), "start_timeout_s": 1.0, "stop_grace_s": 0.3})
    code, cause = replica.end()
    assert code == 1
    assert "gave no token within 1 s" in cause and "loading the model" in cause


def test_one_that_gets_stuck_later_is_no_longer_ready(start: Start) -> None:
    """Case 41, behind another program: a probe of one token finds what its /health hides."""
    replica = start({**command(), "probe_every_s": 0.2, "stuck_after_s": 0.3}).until_ready()
    with pytest.raises(httpx.ReadTimeout):
        replica.client.post("/v1/completions", json={"prompt": "stall", "max_tokens": 1}, timeout=0.1)
    replica.until(lambda: replica.ready()["ready"] is False)
    assert replica.client.get("/health").status_code == 200


def test_sigterm_lets_a_stream_finish_and_ends_even_a_stubborn_server(start: Start) -> None:
    serving = {**command("--mode", "stubborn"), "stop_grace_s": 0.2, "drain_deadline_s": 0.5}
    replica = start(serving).until_ready()
    body = {"prompt": "long", "max_tokens": 5, "stream": True}
    got = broken_stream(replica, body, on_first=replica.process.terminate)
    assert '"draining"' in got
    assert replica.end() == (0, "exited")


def test_nothing_the_server_started_outlives_a_killed_front(start: Start, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    replica = start(command("--mode", "family", "--pids", str(pids))).until_ready()
    server, grandchild = (int(word) for word in pids.read_text().split())
    assert is_there(server) and is_there(grandchild)
    os.kill(replica.process.pid, signal.SIGKILL)
    replica.until(lambda: not is_there(server) and not is_there(grandchild))


def test_an_altered_release_is_never_given_to_the_server(start: Start) -> None:
    replica = start(command(), damage=True)
    code, cause = replica.end()
    assert code == 1
    assert "weights.gguf was altered" in cause
    assert "loading the model" not in replica.log.read_text()


def test_a_missing_vllm_is_named_with_its_interpreter(start: Start) -> None:
    if subprocess.run([sys.executable, "-c", "import vllm"], capture_output=True, check=False).returncode == 0:
        pytest.skip("vLLM is installed here")
    code, cause = start({"backend": "vllm"}).end()
    assert code == 1
    assert f"vLLM is not installed for {sys.executable}" in cause


def test_vllm_is_started_by_another_environments_interpreter_with_a_key_of_its_own(
    start: Start, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(
        "import os, sys\n"
        "at = sys.argv.index\n"
        "print('argv', *sys.argv[1:], 'key' if os.environ['VLLM_API_KEY'] else '')\n"
        f"os.execv(sys.executable, [sys.executable, {str(FOREIGN)!r}, '--port', sys.argv[at('--port') + 1]])\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path / "site"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    serving = {
        "backend": "vllm", "python": str(python), "dtype": "bfloat16", "tensor_parallel": 2, "max_model_len": 512,
        "quantization": "awq", "gpu_memory_utilization": 0.5, "extra_args": ["--enable-prefix-caching"], **QUICK,
    }  # fmt: skip
    replica = start(serving).until_ready()
    said = next(line["line"] for line in replica.lines("backend") if line["line"].startswith("argv"))
    model = replica.spec.payload["bundle"]
    assert said.startswith(f"argv --model {model} --served-model-name chat --host 127.0.0.1 --port ")
    assert said.endswith(
        "--dtype bfloat16 --tensor-parallel-size 2 --max-model-len 512 --quantization awq "
        "--gpu-memory-utilization 0.5 --enable-prefix-caching key"
    )
    replica.client.post("/v1/completions", json={"model": "chat-1", "prompt": "a", "max_tokens": 1})
    seen = replica.asked()["seen"]
    assert seen["model"] == "chat" and seen["authorization"].startswith("Bearer ")


def test_airboss_serve_puts_a_command_behind_a_port(tmp_path: Path) -> None:
    model, log = tmp_path / "m.gguf", tmp_path / "serve.log"
    model.write_bytes(b"GGUF")
    words = [str(Path(sys.executable).with_name("airboss")), "serve", str(model), "--listen", "127.0.0.1:0"]
    words += ["--backend", "command", "--serving", "drain_accept_s=0", "--"]
    words += [sys.executable, str(FOREIGN), "--port", "{port}", "--", "{model}"]
    with log.open("w") as err:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=err, cwd=tmp_path)
    try:
        deadline = time.monotonic() + 120
        while " is served at " not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        address = log.read_text().partition(" is served at ")[2].split()[0]
        answer = httpx.post(f"{address}/v1/completions", json={"prompt": "a", "max_tokens": 2}, timeout=20)
        assert answer.json()["choices"][0]["text"] == " 0 1"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
