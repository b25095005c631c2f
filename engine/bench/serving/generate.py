"""Rows against transformers' `generate`: the same weights, prompts and tokens, batch by batch, without HTTP."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from engine.bench.progress import say
from engine.bench.report import Row, compared, limited, not_measured
from engine.bench.serving.bundles import release_of, weight_bytes
from engine.bench.serving.setup import NotThere, Setup, Windows
from engine.bench.serving.sides import Worker

PROMPT = 128
NEW = 32
TARGETS = {1: 2.0, 8: 1.6, 32: 1.7}
PEER_DTYPES = ("bfloat16", "float32")
"""The targets are on the first, which has our weights' size. A processor without bfloat16 instructions computes it slower
than float32: there the second is the peer to look at."""
INT8_TARGET = 2.5
BANDWIDTH_TARGET = 0.6
KV_MIB = 128
"""Room for 32 sequences of 160 tokens of a model like SmolLM2-135M."""
CONTEXT = 2048
BFLOAT16 = {
    "dtype": "bfloat16",
    "max_batch": 32,
    "max_batch_tokens": 4096,
    "max_context": CONTEXT,
    "kv_cache_mib": KV_MIB,
    "request_deadline_s": 600,
}
SCORED = 24
"""Windows of text that quality is measured on."""


def rows(setup: Setup) -> list[Row]:
    """Output tokens a second, prefill included, at batch 1, 8 and 32, beside both dtypes of the peer."""
    name, unit = "SmolLM2 generate, batch {}, ours bfloat16", "tok/s"
    try:
        model = setup.model_directory()
        peers = {dtype: setup.sides.peer(setup.transformers_python(), model, dtype) for dtype in PEER_DTYPES}
        about = peers[PEER_DTYPES[0]].ask("about")
    except NotThere as missing:
        return [
            not_measured(name.format(batch), unit, "transformers bfloat16", str(missing), f"ratio >= {target:g}")
            for batch, target in TARGETS.items()
        ]
    own = setup.sides.own_engine(release_of(model, setup.sides.root / "generate"), BFLOAT16)
    windows = Windows(model, PROMPT)
    found = []
    for batch, target in TARGETS.items():
        rates, agreement = _rates(setup, {"ours": own, **peers}, windows, batch)
        for dtype in PEER_DTYPES:
            note = f"{about['name']} in {dtype}; {PROMPT}-token prompts, {NEW} new, greedy, {agreement[dtype]}"
            found.append(
                compared(
                    name.format(batch), unit, rates["ours"], rates[dtype], f"transformers {dtype}",
                    at_least=target if dtype == "bfloat16" else None, note=note,
                )
            )  # fmt: skip
    for worker in (*peers.values(), own):
        setup.sides.end(worker)
    return found


def int8_rows(setup: Setup) -> list[Row]:
    """The same at batch 1 with our weights in int8, and what the quantization costs in quality."""
    name, unit = "SmolLM2 generate, batch 1, int8", "tok/s"
    try:
        model = setup.model_directory()
        peer = setup.sides.peer(setup.transformers_python(), model, "bfloat16")
    except NotThere as missing:
        return [not_measured(name, unit, "transformers bf16", str(missing), f"ratio >= {INT8_TARGET:g}")]
    release = release_of(model, setup.sides.root / "int8")
    quantized = setup.sides.own_engine(release, {**BFLOAT16, "quantization": "int8", "max_batch": 1})
    windows = Windows(model, PROMPT)
    rates, _ = _rates(setup, {"ours": quantized, "peer": peer}, windows, 1)
    setup.sides.end(peer)
    whole = setup.sides.own_engine(release, {**BFLOAT16, "max_batch": 1})
    say(f"int8 quality: {SCORED} windows of {PROMPT} tokens")
    pieces = windows.take(SCORED)
    scores = {side: worker.ask("score", windows=pieces) for side, worker in (("int8", quantized), ("bf16", whole))}
    setup.sides.end(quantized)
    setup.sides.end(whole)
    note = f"ours int8 beside bf16; {PROMPT}-token prompts, {NEW} new; {quality(scores['int8'], scores['bf16'])}"
    perplexity = {side: perplexity_of(score) for side, score in scores.items()}
    return [
        compared(name, unit, rates["ours"], rates["peer"], "transformers bf16", at_least=INT8_TARGET, note=note),
        compared(
            "SmolLM2 perplexity, int8", "ppl", [perplexity["int8"]], [perplexity["bf16"]], "ours bf16",
            note=f"pydoc_data text, {SCORED} windows of {PROMPT} tokens",
        ),
    ]  # fmt: skip


def bandwidth_rows(setup: Setup) -> list[Row]:
    """How much of the memory's bandwidth over the weights' bytes decoding one sequence reaches."""
    name, target = "SmolLM2 decode, batch 1, share of bandwidth", f"ours >= {BANDWIDTH_TARGET:g}"
    try:
        model = setup.model_directory()
    except NotThere as missing:
        return [not_measured(name, "share", "", str(missing), target)]
    release = release_of(model, setup.sides.root / "bandwidth")
    own = setup.sides.own_engine(release, {**BFLOAT16, "max_batch": 1})
    is_gpu = own.ask("about")["device"].startswith("cuda")
    windows = Windows(model, PROMPT)
    steps = 8 * NEW if is_gpu else NEW
    shares = []
    for _ in range(setup.rounds):
        setup.calm.wait()
        limit = own.ask("bandwidth")["bytes_per_s"] / weight_bytes(release)
        (prompt, other) = windows.take(2)
        long = own.ask("generate", prompts=[prompt], new=steps + 1)["seconds"]
        short = own.ask("generate", prompts=[other], new=1)["seconds"]
        shares.append(steps / (long - short) / limit)
    setup.sides.end(own)
    note = f"tokens/s of decoding alone over (bytes/s of a sum over memory / {weight_bytes(release) / 1e6:.0f} MB)"
    return [limited(name, "share", shares, at_least=BANDWIDTH_TARGET if is_gpu else None, note=note)]


def _rates(
    setup: Setup, sides: dict[str, Worker], windows: Windows, batch: int
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Tokens a second of each side's rounds, and how far the first round's texts of each agree with ours."""
    say(f"generate: {setup.rounds} rounds at batch {batch}: {', '.join(sides)}")
    texts: dict[str, list[str]] = {}
    prompts: dict[str, list[list[list[int]]]] = {name: [] for name in sides}
    for _ in range(setup.rounds + 1):
        taken = windows.take(batch)
        for name in sides:
            prompts[name].append(taken)

    def ask(name: str, worker: Worker) -> float:
        answer = worker.ask("generate", prompts=prompts[name].pop(0), new=NEW)
        said = answer.get("texts") or [windows.decode(ids) for ids in answer["tokens"]]
        texts.setdefault(name, said)
        return batch * NEW / float(answer["seconds"])

    for name, worker in sides.items():
        ask(name, worker)
    rates = setup.measured({name: partial(ask, name, worker) for name, worker in sides.items()})
    same = {side: sum(a == b for a, b in zip(texts["ours"], said, strict=True)) for side, said in texts.items()}
    return rates, {side: f"{count} of {batch} texts equal" for side, count in same.items()}


def perplexity_of(score: dict[str, Any]) -> float:
    """The exponential of the mean negative log likelihood."""
    return math.exp(float(score["nll"]) / int(score["count"]))


def quality(ours: dict[str, Any], other: dict[str, Any]) -> str:
    """What a quantization costs, in words: perplexity, and how often the likeliest next token stays the same."""
    pairs = [
        (a, b) for mine, theirs in zip(ours["best"], other["best"], strict=True)
        for a, b in zip(mine, theirs, strict=True)
    ]  # fmt: skip
    same = sum(a == b for a, b in pairs) / len(pairs)
    return f"perplexity {perplexity_of(other):.2f} -> {perplexity_of(ours):.2f}, same next token {same:.1%}"
