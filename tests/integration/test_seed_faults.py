"""The server that this one replaces (a FastAPI page around nanoGPT) had faults of its own. Each is a test here.

Its clients, as printed in its guide, work unchanged: only the port is another.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from patience import until
from serving_process import CHARS, Served, model_bundle, served

from engine.serving.bundle import BundleRefused, read_bundle
from state.digests import bundle_digest, hash_tree

pytestmark = pytest.mark.deep

CURL = r"""
curl -X POST "http://localhost:8000/generate" \
  -H "Content-Type: application/json" \
  -d '{
    "prompt": "ROMEO:",
    "max_tokens": 100,
    "temperature": 0.8
  }'
"""
PYTHON = """
import requests

response = requests.post(
    "http://localhost:8000/generate",
    json={
        "prompt": "To be or not to be",
        "max_tokens": 50,
        "temperature": 0.8
    }
)

print(response.json()['text'])
"""
HEALTH = "curl http://localhost:8000/health"
LONG = {"prompt": "abc", "max_tokens": 19_000}
"""An answer that takes as long as a test needs."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server whose context is long: a request runs until its client leaves."""
    serving = {"max_batch": 4, "max_queue": 2, "max_inflight_per_user": 2, "kv_cache_mib": 64}
    with served(tmp_path_factory.mktemp("seed"), context=20_000, layers=1, serving=serving) as started:
        yield started


@pytest.fixture
def running(server: Served) -> Iterator[httpx.Response]:
    """A long generation under way."""
    with (
        httpx.Client(transport=httpx.HTTPTransport(uds=server.socket), base_url="http://m", timeout=60) as other,
        other.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response,
    ):
        # Kept, for an iterator that is forgotten closes its response.
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        yield response
        lines.close()
    until(lambda: server.client.get("/ready").json()["in_flight"] == 0)


def test_its_curl_and_python_clients_work_unchanged(tmp_path: Path) -> None:
    model_bundle(tmp_path / "bundle", {})
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        port = taken.getsockname()[1]
    log = (tmp_path / "log").open("wb")
    airboss = subprocess.Popen(
        [Path(sys.executable).with_name("airboss"), "serve", str(tmp_path / "bundle"), "--listen", f"localhost:{port}",
         "--jobs", str(tmp_path / "jobs")],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        until(lambda: b"is served at" in (tmp_path / "log").read_bytes() or airboss.poll() is not None)
        if shutil.which("curl"):
            said = json.loads(subprocess.check_output(["bash", "-c", CURL.replace("8000", str(port))], timeout=60))
            assert said.keys() == {"text", "tokens_generated"}
            assert said["text"].startswith("ROMEO:") and said["tokens_generated"] == 100 == len(said["text"]) - 6
            health = json.loads(subprocess.check_output(["bash", "-c", HEALTH.replace("8000", str(port))], timeout=60))
            assert health == {"status": "healthy", "model_loaded": True}
        program = textwrap.dedent(PYTHON.replace("8000", str(port)))
        printed = subprocess.check_output([sys.executable, "-c", program], timeout=60, text=True)
        assert printed.startswith("To be or not to be") and len(printed) == 18 + 50 + 1
        root = httpx.get(f"http://localhost:{port}/").json()
        assert root == {"status": "ok", "message": "charlm-1 is running"}
        assert (tmp_path / "jobs").is_dir()
        with httpx.stream(
            "POST", f"http://localhost:{port}/generate", json={"prompt": "abc", "stream": True}
        ) as answer:
            events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
        assert events.pop() == "[DONE]"
        chunks = [json.loads(event) for event in events]
        assert chunks[-1]["tokens_generated"] == 100
        assert "".join(chunk["text"] for chunk in chunks).startswith("abc")
    finally:
        airboss.send_signal(signal.SIGINT)
        assert airboss.wait(30) == 0
        log.close()


def test_blocking_handler_health_and_metrics_answer_while_text_is_generated(
    server: Served, running: httpx.Response
) -> None:
    for path in ("/health", "/ready", "/metrics", "/v1/models"):
        assert server.client.get(path).status_code == 200
    assert server.metric("vllm:num_requests_running") == 1
    assert server.client.get("/ready").json()["in_flight"] == 1


def test_unhealthy_with_200_a_server_that_cannot_answer_says_503(tmp_path: Path) -> None:
    with served(tmp_path, is_awaited=False) as starting:
        seen: set[tuple[int, str]] = set()

        def is_ready() -> bool:
            try:
                root, ready = starting.client.get("/"), starting.client.get("/ready")
            except httpx.TransportError:
                return False
            seen.add((root.status_code, root.json()["status"]))
            assert ready.status_code == (200 if ready.json()["reason"] is None else 503)
            return ready.status_code == 200

        until(is_ready)
        health = starting.client.get("/health")
        assert (health.status_code, health.json()["model_loaded"]) == (200, True)
    assert {(503, "unavailable")} <= seen <= {(503, "unavailable"), (200, "ok")}


def test_parameters_of_the_first_for_all_each_request_of_a_batch_keeps_its_own(server: Served) -> None:
    bias = {token: {str(CHARS.index(token)): 100} for token in "qz"}

    def ask(number: int) -> tuple[int, str]:
        body = {
            "prompt": "abc",
            "max_tokens": 5 + 7 * number,
            "temperature": 0.1 * number,
            "logit_bias": bias["qz"[number % 2]],
        }
        choice = server.client.post("/v1/completions", json=body).json()
        return choice["usage"]["completion_tokens"], choice["choices"][0]["text"]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))
    assert answers == [(5 + 7 * number, "qz"[number % 2] * (5 + 7 * number)) for number in range(4)]


def test_padding_without_a_mask_a_short_prompt_beside_a_long_one_gives_its_own_text(server: Served) -> None:
    prompts = ["a", "to be or not to be that is the question " * 5, "abc", "q" * 60]

    def ask(prompt: str) -> str:
        body = {"prompt": prompt, "max_tokens": 30, "temperature": 0}
        return str(server.client.post("/v1/completions", json=body).json()["choices"][0]["text"])

    alone = [ask(prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, prompts)) == alone


def test_unbounded_queue_what_is_too_much_is_told_so_at_once(server: Served) -> None:
    with httpx.Client(transport=httpx.HTTPTransport(uds=server.socket), base_url="http://m", timeout=60) as other:
        refused: list[httpx.Response] = []
        leaving = threading.Event()

        def ask() -> None:
            with other.stream("POST", "/v1/completions", json={**LONG, "stream": True}) as response:
                if response.status_code != 200:
                    response.read()
                    refused.append(response)
                leaving.wait(30)

        threads = [threading.Thread(target=ask) for _ in range(9)]
        for thread in threads:
            thread.start()
        until(lambda: len(refused) == 3)
        assert server.client.get("/ready").json()["in_flight"] == 6
        leaving.set()
        for thread in threads:
            thread.join()
    assert {response.status_code for response in refused} == {503}
    assert all(int(response.headers["retry-after"]) >= 1 for response in refused)
    assert refused[0].json()["error"]["code"] == "queue_full"
    until(lambda: server.client.get("/ready").json()["in_flight"] == 0)


def test_static_window_a_short_request_does_not_wait_for_a_long_one(server: Served, running: httpx.Response) -> None:
    before = server.client.get("/ready").json()
    short = server.client.post("/generate", json={"prompt": "abc", "max_tokens": 3}).json()
    after = server.client.get("/ready").json()
    assert short["tokens_generated"] == 3
    # It joined the running batch: the long one went on beside it, and is not done.
    assert after["steps"] > before["steps"] and after["in_flight"] == 1


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    bundle = tmp_path / "bundle"
    model_bundle(bundle, {})

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (ran.write_text, ("x",))

    (bundle / "model.safetensors").write_bytes(pickle.dumps(Trap()))
    torch.save({"model": Trap()}, bundle / "ckpt.pt")
    files = [file for file in hash_tree(bundle) if file.path != "release.json"]
    listed = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files]
    manifest = {"release_id": "charlm-1", "digest": bundle_digest(files), "files": listed}
    (bundle / "release.json").write_text(json.dumps(manifest))
    from engine.serving.loader import load_bundle

    with pytest.raises(BundleRefused):
        load_bundle(bundle, None)
    assert not ran.exists()
    shutil.move(bundle / "ckpt.pt", bundle / "model.safetensors")
    with pytest.raises(BundleRefused):
        read_bundle(bundle, None)
    assert not ran.exists()


def test_limits_by_process_and_address_a_tenant_is_limited_over_all_its_connections(server: Served) -> None:
    body = {**LONG, "stream": True, "user": "someone else"}
    clients = [
        httpx.Client(transport=httpx.HTTPTransport(uds=server.socket), base_url="http://m", timeout=60)
        for _ in range(3)
    ]
    # The gateway says who asks; what the body claims does not matter then.
    streams = [
        client.stream("POST", "/v1/completions", json=body, headers={"x-airboss-tenant": "ann"})
        for client in clients[:2]
    ]
    for stream in streams:
        assert stream.__enter__().status_code == 200
    third = clients[2].post("/v1/completions", json=body, headers={"x-airboss-tenant": "ann"})
    assert (third.status_code, third.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(third.headers["retry-after"]) >= 1
    other = clients[2].post("/generate", json={"prompt": "abc", "max_tokens": 1}, headers={"x-airboss-tenant": "bob"})
    assert other.status_code == 200
    for stream in streams:
        stream.__exit__(None, None, None)
    for client in clients:
        client.close()
    until(lambda: server.client.get("/ready").json()["in_flight"] == 0)


def test_counting_pads_tokens_are_those_generated(server: Served) -> None:
    def ask(number: int) -> dict[str, Any]:
        body = {"prompt": "abc" * (1 + 20 * number), "max_tokens": 3 + number, "echo": False}
        answer: dict[str, Any] = server.client.post("/generate", json=body).json()
        return answer

    with ThreadPoolExecutor(4) as pool:
        for number, answer in enumerate(pool.map(ask, range(4))):
            assert answer["tokens_generated"] == 3 + number == len(answer["text"])


def test_a_full_disk_for_logs_ends_no_request(tmp_path: Path) -> None:
    with served(tmp_path, stdout="/dev/full") as deaf:
        for _ in range(3):
            assert deaf.client.post("/generate", json={"prompt": "abc", "max_tokens": 2}).status_code == 200
        assert deaf.is_ready()
