"""Rows over HTTP: beside `transformers serve` and vLLM at 32 clients, memory, and the time to the first token."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from engine.bench.progress import say
from engine.bench.report import Row, compared, not_measured
from engine.bench.serving.bundles import release_of, weight_bytes
from engine.bench.serving.generate import BFLOAT16, CONTEXT, KV_MIB, NEW, PROMPT
from engine.bench.serving.http_load import Answer, Found, load
from engine.bench.serving.setup import INSTALL_VLLM, NotThere, Setup, Windows
from engine.bench.serving.sides import Server
from state.words import OperationFailed

CLIENTS = 32
TARGET = 4.5
MEMORY_TARGET = 1.3
TTFT_TARGET = 1.2
TTFT_CLIENTS = 8
CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"


def rows(setup: Setup) -> list[Row]:
    """Chat at 32 clients against `transformers serve`, and the memory our server had come to."""
    name = f"SmolLM2 chat, {CLIENTS} clients, bfloat16"
    try:
        model = setup.model_directory()
        release = release_of(model, setup.sides.root / "http")
        other = setup.sides.transformers_serve(setup.transformers_python(), model)
    except (NotThere, OperationFailed) as missing:
        return [not_measured(name, "tok/s", "transformers serve", str(missing), f"ratio >= {TARGET:g}")]
    ours = setup.sides.own_server(release, BFLOAT16)
    windows = Windows(model, PROMPT - 24)
    rates = _chat_rates(setup, {"ours": ours, "other": other}, windows)
    setup.sides.stop(other)
    resident, due = ours.memory_bytes() / 1e6, (weight_bytes(release) + (KV_MIB << 20)) / 1e6
    setup.sides.stop(ours)
    note = f"with continuous batching; {NEW} new tokens, tokens as each server counts them"
    return [
        compared(
            name, "tok/s", rates["ours"], rates["other"], "transformers serve", at_least=TARGET, note=note
        ),
        compared(
            "SmolLM2 server's memory", "MB", [resident], [due], "weights + KV", at_most=MEMORY_TARGET,
            note=f"PSS after the load, Python and torch included, over weights + {KV_MIB} MiB of KV cache",
        ),
    ]  # fmt: skip


def vllm_rows(setup: Setup) -> list[Row]:
    """Chat against vLLM's own server, at 1, 8 and 32 clients."""
    name = "SmolLM2 chat, {} client(s), bfloat16"
    counts = (CLIENTS,) if setup.is_quick else (1, 8, CLIENTS)
    try:
        if setup.vllm_python is None:
            raise NotThere(INSTALL_VLLM)
        model = setup.model_directory()
        release = release_of(model, setup.sides.root / "vllm")
        say("starting vllm: it compiles for a minute or two")
        other = setup.sides.vllm(setup.vllm_python, model, CONTEXT)
    except (NotThere, OperationFailed) as missing:
        return [not_measured(name.format(count), "tok/s", "vllm", str(missing)) for count in counts]
    ours = setup.sides.own_server(release, BFLOAT16)
    windows = Windows(model, PROMPT - 24)
    found = []
    for count in counts:
        rates = _chat_rates(setup, {"ours": ours, "other": other}, windows, count)
        note = f"compiled, as it comes; {NEW} new tokens"
        found.append(compared(name.format(count), "tok/s", rates["ours"], rates["other"], "vllm", note=note))
    for server in (ours, other):
        setup.sides.stop(server)
    return found


def ttft_rows(setup: Setup) -> list[Row]:
    """Time to the first token at p95 with 8 clients, beside an idle server's and a prompt's own prefill."""
    name = f"SmolLM2 TTFT p95, {TTFT_CLIENTS} clients, bfloat16"
    try:
        model = setup.model_directory()
        release = release_of(model, setup.sides.root / "ttft")
    except NotThere as missing:
        return [not_measured(name, "ms", "idle + prefill", str(missing), f"ratio <= {TTFT_TARGET:g}")]
    server = setup.sides.own_server(release, {**BFLOAT16, "max_batch_tokens": 512})
    windows = Windows(model, PROMPT)
    asks = 3 if setup.is_quick else 5

    def idle() -> float:
        """An idle server's time to the first token of such a prompt, and what of it is the prompt's own prefill."""
        whole = [answer.first_s for answer in _stream(server, windows.texts(asks), 1).answers]
        bare = [answer.first_s for answer in _stream(server, ["a"] * asks, 1).answers]
        prefill = max(0.0, statistics.median(whole) - statistics.median(bare))
        return 1000 * (statistics.median(whole) + prefill)

    def busy() -> float:
        found = _stream(server, windows.texts(TTFT_CLIENTS * asks), TTFT_CLIENTS)
        return 1000 * percentile([answer.first_s for answer in _settled(found.answers)], 95)

    idle()
    busy()
    say(f"time to first token: {setup.rounds} rounds, idle and with {TTFT_CLIENTS} clients")
    took = setup.measured({"idle": idle, "busy": busy})
    setup.sides.stop(server)
    note = f"streams of {PROMPT}-token prompts, {NEW // 2} to {NEW * 3 // 2} tokens, asked again at once"
    return [compared(name, "ms", took["busy"], took["idle"], "idle + prefill", at_most=TTFT_TARGET, note=note)]


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that `percent` of them do not exceed."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


def _chat_rates(
    setup: Setup, servers: dict[str, Server], windows: Windows, clients: int = CLIENTS
) -> dict[str, list[float]]:
    """Tokens a second of each server's rounds; every one has had a round to warm up before."""
    say(f"chat: {setup.rounds} rounds of {clients} clients: {', '.join(server.name for server in servers.values())}")
    count = clients * (1 if setup.is_quick else 2) if clients > 1 else 4
    sides: dict[str, Callable[[], float]] = {
        name: partial(_chat, server, windows, count, clients) for name, server in servers.items()
    }
    for side in sides.values():
        side()
    return setup.measured(sides)


def _chat(server: Server, windows: Windows, count: int, clients: int) -> float:
    bodies = [chat_body(server.model, text, server.name) for text in windows.texts(count)]
    return load(server, CHAT, bodies, clients).tokens_per_s


def chat_body(model: str, text: str, server_name: str) -> dict[str, Any]:
    """One greedy question about a piece of text, in the words that server takes."""
    asked = f"Explain in detail: {text}"
    body = {"model": model, "messages": [{"role": "user", "content": asked}], "max_tokens": NEW}
    # transformers refuses a temperature of 0; without one it is greedy, as the model's own settings say.
    return body if server_name == "transformers serve" else {**body, "temperature": 0, "ignore_eos": True}


def _stream(server: Server, texts: list[str], clients: int) -> Found:
    """Streams of lengths that differ, so that clients do not march in step."""
    bodies = [
        {
            "model": server.model,
            "prompt": text,
            "max_tokens": NEW // 2 + at * 7 % (NEW + 1) if clients > 1 else 2,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for at, text in enumerate(texts)
    ]
    return load(server, COMPLETIONS, bodies, clients)


def _settled(answers: tuple[Answer, ...]) -> list[Answer]:
    """Without each client's first answer: those were all asked for in the same instant."""
    seen: set[int] = set()
    kept = []
    for answer in answers:
        if answer.client in seen:
            kept.append(answer)
        seen.add(answer.client)
    return kept
