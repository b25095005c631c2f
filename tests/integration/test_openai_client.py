"""The `openai` client library against the model server, unchanged: answers, streams, log probabilities, its exceptions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from serving_process import CHARS, Served, served

GREEDY: dict[str, Any] = {"model": "chat", "temperature": 0}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    quotas = {"tenants": {"poor": {"tokens_per_minute": 30}}}
    with served(tmp_path_factory.mktemp("openai"), serving=quotas) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Served) -> Iterator[openai.OpenAI]:
    http = httpx.Client(transport=httpx.HTTPTransport(uds=server.socket), timeout=60)
    with openai.OpenAI(api_key="none", base_url="http://model/v1", http_client=http, max_retries=0) as made:
        yield made


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["chat"]
    assert client.models.retrieve("chat").owned_by == "airboss"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'"):
        client.models.retrieve("gpt-9")


def test_a_chat_and_its_stream_say_the_same(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "developer", "content": "be brief"}, {"role": "user", "content": "to be or not"}]
    whole = client.chat.completions.create(messages=messages, max_completion_tokens=20, **GREEDY)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None and whole.usage.completion_tokens == 20
    streamed = client.chat.completions.create(
        messages=messages, max_completion_tokens=20, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(streamed)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_log_probabilities_of_a_chat_are_those_of_its_tokens(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "to be"}]
    answer = client.chat.completions.create(
        messages=messages, max_tokens=5, logprobs=True, top_logprobs=3, **GREEDY
    ).choices[0]
    assert answer.logprobs is not None and answer.logprobs.content is not None
    assert "".join(token.token for token in answer.logprobs.content) == answer.message.content
    for token in answer.logprobs.content:
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert bytes(token.bytes or []).decode() == token.token


def test_log_probabilities_of_a_completion_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.completions.create(prompt="to be", max_tokens=6, logprobs=2, **GREEDY).choices[0]
    lp = whole.logprobs
    assert lp is not None and lp.tokens and lp.token_logprobs and lp.top_logprobs
    assert "".join(lp.tokens) == whole.text
    assert lp.text_offset == list(range(6))
    assert all(
        value == pytest.approx(max(top.values())) for value, top in zip(lp.token_logprobs, lp.top_logprobs, strict=True)
    )
    chunks = list(client.completions.create(prompt="to be", max_tokens=6, logprobs=2, stream=True, **GREEDY))
    values = [
        value
        for chunk in chunks
        for value in (chunk.choices[0].logprobs.token_logprobs if chunk.choices[0].logprobs else [])
    ]  # type: ignore[union-attr]
    offsets = [
        at for chunk in chunks for at in (chunk.choices[0].logprobs.text_offset if chunk.choices[0].logprobs else [])
    ]  # type: ignore[union-attr]
    assert values == pytest.approx(lp.token_logprobs, rel=1e-4)
    assert offsets == lp.text_offset


def test_several_prompts_with_several_answers_are_choices_in_order(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "chat", "max_tokens": 8, "temperature": 0.9, "seed": 5}
    many = client.completions.create(prompt=["abc", "to be"], n=2, **asked)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in many.choices}) == 4
    assert many.usage is not None and (many.usage.prompt_tokens, many.usage.completion_tokens) == (8, 32)
    alone = client.completions.create(prompt="abc", **asked)
    assert alone.choices[0].text == many.choices[0].text
    texts = ["", "", "", ""]
    for chunk in client.completions.create(prompt=["abc", "to be"], n=2, stream=True, **asked):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in many.choices]


def test_best_of_sends_the_likeliest(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "chat",
        "prompt": "abc",
        "max_tokens": 4,
        "temperature": 2.0,
        "seed": 1,
        "logprobs": 0,
    }

    def score(choice: Any) -> float:
        return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

    every = client.completions.create(n=8, **asked)
    best = client.completions.create(n=1, best_of=8, **asked)
    assert score(best.choices[0]) == pytest.approx(max(score(choice) for choice in every.choices), rel=1e-4)
    assert best.usage is not None and best.usage.completion_tokens == 32


def test_bias_penalties_and_stops_change_the_answer(client: openai.OpenAI) -> None:
    z = CHARS.index("z")
    biased = client.completions.create(prompt="abc", max_tokens=4, logit_bias={str(z): 100}, **GREEDY)
    assert biased.choices[0].text == "zzzz"
    stopped = client.completions.create(prompt="abc", max_tokens=4, logit_bias={str(z): 100}, stop="zz", **GREEDY)
    assert (stopped.choices[0].text, stopped.choices[0].finish_reason) == ("", "stop")
    token = client.completions.create(
        prompt="abc", max_tokens=4, logit_bias={str(z): 100}, extra_body={"stop_token_ids": [z]}, **GREEDY
    )
    assert (token.choices[0].text, token.choices[0].finish_reason) == ("", "stop")
    penal = client.completions.create(
        prompt="abc", max_tokens=4, logit_bias={str(z): 100}, presence_penalty=2, frequency_penalty=2,
        extra_body={"repetition_penalty": 10.0, "min_p": 0.1, "top_k": 5}, **GREEDY,
    )  # fmt: skip
    assert penal.choices[0].text.startswith("z")
    echoed = client.completions.create(prompt="abc", max_tokens=2, echo=True, **GREEDY)
    assert echoed.choices[0].text.startswith("abc") and len(echoed.choices[0].text) == 5


def test_refusals_are_the_librarys_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-9", prompt="a")
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(prompt="a" * 300, max_tokens=10, **GREEDY)
    assert (wrong.value.code, wrong.value.param) == ("context_length_exceeded", "prompt")
    with pytest.raises(openai.BadRequestError, match="tools is not supported here"):
        client.chat.completions.create(
            messages=[{"role": "user", "content": "a"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
            **GREEDY,
        )
    client.completions.create(prompt="a" * 20, max_tokens=20, user="poor", **GREEDY)
    with pytest.raises(openai.RateLimitError, match="has used the 30 tokens of this minute") as limited:
        client.completions.create(prompt="a" * 20, max_tokens=20, user="poor", **GREEDY)
    assert 1 <= int(limited.value.response.headers["retry-after"]) <= 60
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1e-6).completions.create(prompt="abc", max_tokens=200, **GREEDY)


def test_numbers_of_the_prefix_cache_and_of_requests_are_told(client: openai.OpenAI, server: Served) -> None:
    prompt = "the same beginning of a prompt, long enough for some blocks of it: "
    client.completions.create(prompt=prompt, max_tokens=1, **GREEDY)
    again = client.completions.create(prompt=prompt, max_tokens=1, n=2, **GREEDY)
    assert again.usage is not None and again.usage.prompt_tokens_details is not None
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert cached is not None and cached >= 16
    assert server.metric("vllm:prefix_cache_hits_total") >= 2 * cached
    assert server.metric("vllm:prefix_cache_queries_total") > server.metric("vllm:prefix_cache_hits_total")
    assert server.metric("vllm:prompt_tokens_cached_total") >= 2 * cached
    assert server.metric('vllm:prompt_tokens_by_source_total{engine="0",model_name="chat",source="local_compute"}') > 0
    assert server.metric("vllm:request_params_n_count") > server.metric(
        'vllm:request_params_n_bucket{engine="0",le="1.0"'
    )
    assert math.isfinite(server.metric("vllm:request_prefill_kv_computed_tokens_sum"))
    assert server.metric("vllm:num_preemptions_total") == 0


def test_the_api_describes_itself_without_the_internet(server: Served) -> None:
    document = server.client.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/generate", "/v1/jobs/{job_id}"} <= document["paths"].keys()
    fields = document["components"]["schemas"]["CompletionBody"]["properties"]
    assert fields["best_of"]["description"].startswith("Generate this many answers")
    page = server.client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
