"""The HTTP front around a real engine whose steps a test can hold back or break."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor

from engine.serving import server
from engine.serving.compute.assemble import engine_for
from engine.serving.compute.attention import Row
from engine.serving.compute.runner import StepRunner
from engine.serving.front.api import Front
from engine.serving.front.intake import Intake
from engine.serving.loader import LoadedModel
from engine.serving.loop import EngineLoop, ModelCard
from engine.serving.metrics import ServingMetrics
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer
from state.words import OperationFailed

CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=32, vocab_size=4)
PROMPT = {"model": "chat", "prompt": "abc", "max_tokens": 4, "temperature": 0}


class Valve:
    """A runner whose steps a test can stop (`open.clear()`) or make fail (`failure`)."""

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self.open = threading.Event()
        self.open.set()
        self.failure: Exception | None = None

    def run(self, rows: Sequence[Row]) -> Tensor:
        self.open.wait(20)
        if self.failure is not None:
            raise self.failure
        return self._runner.run(rows)

    def wipe(self, blocks: Sequence[int]) -> None:
        self._runner.wipe(blocks)


class Replica:
    """A front and an engine, and a client that calls it in-process."""

    def __init__(self, **settings: Any) -> None:
        self.settings = ServingSettings(**{"max_batch": 1, "max_queue": 1, **settings})
        torch.manual_seed(1)
        loaded = LoadedModel(GPT(CONFIG).eval(), CharTokenizer(" abc"), CONFIG, self.settings)
        core = engine_for(loaded)
        core.runner = self.valve = Valve(core.runner)
        card = ModelCard("charlm-1", "d" * 64, loaded.tokenizer, CONFIG.block_size, 1, "cpu", self.settings,
                         core.blocks.count, core.blocks.size)  # fmt: skip
        self.intake = Intake(asyncio.get_running_loop())
        metrics = ServingMetrics("chat")
        self.engine = EngineLoop(lambda: (core, card), metrics, self.intake)
        self.intake.attach(self.engine)
        self.front = Front(
            service="chat",
            release_id="charlm-1",
            identity={"spawn_id": "s"},
            engine=self.engine,
            intake=self.intake,
            metrics=metrics,
        )
        transport = httpx.ASGITransport(self.front.app())
        self.client = httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=30)
        self.engine.start()

    async def post(
        self, path: str = "/v1/completions", headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        return await self.client.post(path, json=body, headers=headers or {})

    async def ready(self) -> tuple[int, dict[str, Any]]:
        response = await self.client.get("/ready")
        return response.status_code, response.json()

    async def metric(self, name: str, **labels: str) -> float:
        text = (await self.client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        raise KeyError(name)

    async def until(self, holds: Callable[[int, dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll /ready until `holds(status, body)`; returns the body."""
        deadline = time.monotonic() + 15
        while True:
            status, body = await self.ready()
            if holds(status, body):
                return body
            assert time.monotonic() < deadline, body
            await asyncio.sleep(0.01)


@pytest.fixture
async def replicas() -> AsyncIterator[Callable[..., Any]]:
    made: list[Replica] = []

    async def make(**settings: Any) -> Replica:
        replica = Replica(**settings)
        made.append(replica)
        await replica.until(lambda status, _: status == 200)
        return replica

    yield make
    for replica in made:
        replica.valve.open.set()
        assert replica.engine.stop(5)
        await replica.client.aclose()


async def test_a_full_queue_answers_503_with_retry_after_and_takes_nothing_from_those_inside(
    replicas: Callable[..., Any],
) -> None:
    replica = await replicas()
    replica.valve.open.clear()
    inside = [asyncio.create_task(replica.post(**PROMPT)) for _ in range(2)]
    await replica.until(lambda _, body: body["in_flight"] == 2)
    refused = await replica.post(**PROMPT)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    replica.valve.open.set()
    assert [(await task).status_code for task in inside] == [200, 200]
    assert await replica.metric("vllm:admission_rejections_total", reason="queue_full") == 1
    assert await replica.metric("vllm:request_success_total", finished_reason="length") == 2


async def test_a_user_with_too_many_requests_is_told_429_and_others_are_served(replicas: Callable[..., Any]) -> None:
    replica = await replicas(max_queue=8, max_inflight_per_user=1)
    replica.valve.open.clear()
    first = asyncio.create_task(replica.post(**PROMPT, user="ann"))
    await replica.until(lambda _, body: body["in_flight"] == 1)
    second = await replica.post(**PROMPT, user="ann")
    assert (second.status_code, second.json()["error"]["type"]) == (429, "rate_limit_error")
    assert "retry-after" in second.headers
    other = asyncio.create_task(replica.post(**PROMPT, user="bob"))
    await replica.until(lambda _, body: body["in_flight"] == 2)
    replica.valve.open.set()
    assert [(await first).status_code, (await other).status_code] == [200, 200]
    assert (await replica.post(**PROMPT, user="ann")).status_code == 200


async def test_a_request_past_its_deadline_is_answered_504_and_leaves_the_engine(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    replica.valve.open.clear()
    late = await replica.post(**PROMPT, headers={"x-airboss-deadline-ms": "60", "x-request-id": "r-1"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert late.headers["x-request-id"] == "r-1"
    replica.valve.open.set()
    async with asyncio.timeout(15):
        while await replica.metric("vllm:request_success_total", finished_reason="abort") != 1:
            await asyncio.sleep(0.01)
    assert (await replica.ready())[1]["in_flight"] == 0


async def test_a_stuck_engine_is_not_ready_and_one_that_moves_again_is(replicas: Callable[..., Any]) -> None:
    """Case 41: /health says 200 all the while; the gateway asks /ready, and takes it out."""
    replica = await replicas(stuck_after_s=0.3)
    replica.valve.open.clear()
    held = asyncio.create_task(replica.post(**PROMPT))
    body = await replica.until(lambda status, _: status == 503)
    assert "stuck" in body["reason"]
    assert (await replica.client.get("/health")).status_code == 200
    assert (await replica.post(**PROMPT)).json()["error"]["code"] == "engine_unavailable"
    replica.valve.open.set()
    assert (await held).status_code == 200
    await replica.until(lambda status, _: status == 200)


async def test_an_engine_that_died_answers_503_to_everything(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    replica.valve.failure = RuntimeError("the device was lost")
    caught = await replica.post(**PROMPT)
    assert (caught.status_code, caught.json()["error"]["code"]) == (503, "engine_dead")
    status, body = await replica.ready()
    assert (status, body["reason"]) == (503, "the engine died: RuntimeError: the device was lost")
    assert (await replica.client.get("/health")).status_code == 503
    assert (await replica.post(**PROMPT)).status_code == 503


async def test_a_server_whose_engine_died_answers_a_while_and_then_ends_with_the_reason(
    replicas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "DEATH_LINGER_S", 0.2)
    replica = await replicas()
    replica.intake.changed.clear()
    ending = asyncio.create_task(
        server.until_told(replica.engine, replica.intake, asyncio.Event(), replica.front.on_serving)
    )
    replica.valve.failure = RuntimeError("the device was lost")
    assert (await replica.post(**PROMPT)).status_code == 503
    assert not ending.done()
    with pytest.raises(OperationFailed, match="the engine died: RuntimeError: the device was lost"):
        await ending


async def test_one_requests_lack_of_memory_is_its_own_503(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    replica.valve.failure = torch.OutOfMemoryError("CUDA out of memory")
    starved = await replica.post(**PROMPT)
    assert (starved.status_code, starved.json()["error"]["code"]) == (503, "out_of_memory")
    replica.valve.failure = None
    assert (await replica.post(**PROMPT)).status_code == 200
    assert (await replica.ready())[0] == 200


async def test_a_draining_replica_is_not_ready_but_serves_until_it_closes(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    replica.intake.is_draining = True
    assert (await replica.ready())[0] == 503
    assert (await replica.post(**PROMPT)).status_code == 200
    replica.intake.is_closed = True
    refused = await replica.post(**PROMPT)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("/v1/completions", {"prompt": "a" * 40}, 400, "prompt", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "a" * 30, "max_tokens": 3}, 400, "max_tokens", "context_length_exceeded"),
        ("/v1/completions", {"prompt": ""}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": ["a", 1]}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": [["a"]]}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": ["a"] * 130}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": [0, 99]}, 400, "prompt", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "temperature": 3}, 400, "temperature", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "temperature": "hot"}, 400, "temperature", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "top_p": 0}, 400, "top_p", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "n": 17}, 400, "n", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "n": 2, "best_of": 1}, 400, "best_of", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "best_of": 2, "stream": True}, 400, "best_of", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "logprobs": 6}, 400, "logprobs", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "logprobs": 1, "echo": True}, 400, "echo", "unsupported_parameter"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"9": 1}}, 400, "logit_bias", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "logit_bias": {"a": 1}}, 400, "logit_bias", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "stop_token_ids": [4]}, 400, "stop_token_ids", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "presence_penalty": 3}, 400, "presence_penalty", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 10**30}, 400, "max_tokens", "context_length_exceeded"),
        ("/v1/completions", {"prompt": "a", "seed": 10**30}, 400, "seed", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, 400, "suffix", "unsupported_parameter"),
        ("/v1/completions", {"prompt": "a", "stop": ["a", ""]}, 400, "stop.1", "invalid_value"),
        ("/v1/completions", {"prompt": "a", "stop": list("abcab") * 4}, 400, "stop", "invalid_value"),
        ("/v1/completions", ["prompt"], 400, None, "invalid_value"),
        ("/v1/completions", {"prompt": "a", "model": "gpt-9"}, 404, "model", "model_not_found"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "robot", "content": "a"}]},
            400,
            "messages.0.role",
            "invalid_value",
        ),
        ("/v1/chat/completions", {"messages": []}, 400, "messages", "invalid_value"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]},
            400,
            "tools",
            "unsupported_parameter",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "a"}], "top_logprobs": 2},
            400,
            "top_logprobs",
            "invalid_value",
        ),
        ("/generate", {"prompt": "a", "n": 2}, 400, "n", "invalid_value"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            "invalid_value",
        ),
        ("/v1/embeddings", {"input": "a"}, 404, None, "not_found"),
        ("/v1/models", {}, 405, None, "not_found"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    replicas: Callable[..., Any], path: str, body: object, status: int, param: str | None, code: str
) -> None:
    replica = await replicas()
    response = await replica.client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (status, code, "invalid_request_error"), error
    assert error["param"] == param
    assert error["message"]


async def test_a_body_that_is_no_json_or_too_large_is_refused(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    broken = await replica.client.post("/generate", content=b"{'prompt'")
    assert (broken.status_code, broken.json()["error"]["code"]) == (400, "invalid_json")
    for content, said in ((b'{"prompt": "\xff"}', "not UTF-8"), (b"[" * 100_000, "too deeply")):
        wrong = await replica.client.post("/generate", content=content)
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_json")
        assert said in wrong.json()["error"]["message"]
    half = await replica.client.post("/v1/completions", content=rb'{"prompt": "a\ud800"}')
    assert (half.status_code, half.json()["error"]["param"]) == (400, "prompt")
    large = await replica.post("/generate", prompt="a" * (1 << 20))
    assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


async def test_what_nobody_expected_is_a_500_that_says_where_to_look_and_keeps_no_place(
    replicas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await replicas()
    monkeypatch.setattr(replica.front.desk, "tracer", None)
    transport = httpx.ASGITransport(replica.front.app(), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as client:
        broken = await client.post("/v1/completions", json=PROMPT, headers={"x-request-id": "r-9"})
    assert (broken.status_code, broken.json()["error"]["code"]) == (500, "internal_error")
    assert "r-9" in broken.json()["error"]["message"]
    assert (await replica.ready())[1]["in_flight"] == 0


async def test_openai_clients_nulls_and_extras_are_taken(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    response = await replica.post(**PROMPT, top_p=None, stop=None, metadata={"a": 1}, n=1, presence_penalty=0.0)
    assert response.status_code == 200
    body = response.json()
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)
    chat = await replica.post(
        "/v1/chat/completions",
        messages=[{"role": "user", "content": [{"type": "text", "text": "abc"}]}],
        max_completion_tokens=4,
        temperature=0,
    )
    assert chat.json()["choices"][0]["message"] == {"role": "assistant", "content": body["choices"][0]["text"]}
    kept = await replica.post(**{**PROMPT, "prompt": "a" * 100 + "abc"}, truncate_prompt_tokens=3)
    assert kept.json()["choices"] == body["choices"]


async def test_generate_takes_max_tokens_as_at_most(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    answer = (await replica.post("/generate", prompt="abc", max_tokens=1000)).json()
    assert answer["tokens_generated"] == CONFIG.block_size - 3
    assert answer["text"].startswith("abc") and len(answer["text"]) == CONFIG.block_size


async def test_every_series_exists_before_the_first_request(replicas: Callable[..., Any]) -> None:
    replica = await replicas()
    assert await replica.metric("vllm:generation_tokens_total", model_name="chat") == 0
    for reason in ("stop", "length", "abort", "error"):
        assert await replica.metric("vllm:request_success_total", finished_reason=reason) == 0
    for reason in ("queue_full", "user_limit", "draining", "injected_fault"):
        assert await replica.metric("vllm:admission_rejections_total", reason=reason) == 0
    assert await replica.metric("vllm:time_to_first_token_seconds_bucket", le="0.001") == 0
    assert await replica.metric("vllm:cache_config_info", block_size="16", num_gpu_blocks="2") == 1
    await replica.post(**PROMPT)
    assert await replica.metric("vllm:generation_tokens_total") == 4
    assert await replica.metric("vllm:prompt_tokens_total") == 3


def test_the_front_imports_neither_torch_nor_the_stores_of_other_rooms() -> None:
    program = (
        "import sys, engine.serving.server;"
        "print([m for m in ('torch','numpy','mlflow','sqlmodel','state.store','state.models','engine.rollouts') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"


async def test_a_long_prompt_is_tokenized_without_holding_up_the_others(
    replicas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = await replicas()
    tokenizer = replica.engine.card.tokenizer
    began, others_were_heard, encode = threading.Event(), threading.Event(), tokenizer.encode

    def slow(text: str) -> list[int]:
        if len(text) > 100:
            began.set()
            assert others_were_heard.wait(15), "the front answered nobody meanwhile"
        tokens: list[int] = encode(text)
        return tokens

    monkeypatch.setattr(tokenizer, "encode", slow)
    long = asyncio.create_task(replica.post(prompt="a" * 50_000, max_tokens=1))
    assert await asyncio.to_thread(began.wait, 15)
    assert (await replica.post(**PROMPT)).status_code == 200
    others_were_heard.set()
    assert (await long).json()["error"]["code"] == "context_length_exceeded"
