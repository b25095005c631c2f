"""The paged cache's book-keeping: blocks, shared prefixes, giving way; and that none of it changes a token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.serving.compute.assemble import engine_for
from engine.serving.compute.blocks import BlockPool
from engine.serving.compute.core import EngineCore, StepReport
from engine.serving.compute.graphs import DecodeGraphs
from engine.serving.compute.hugepages import collapse
from engine.serving.compute.kv_cache import CachePlan, PagedCache, bytes_per_token, plan_cache
from engine.serving.compute.runner import Runner
from engine.serving.loader import LoadedModel
from engine.serving.models.decoder import Shape
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.request import SamplingParams
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer
from state.words import ConfigError

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=48, vocab_size=26)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def model() -> LoadedModel:
    torch.manual_seed(7)
    gpt = GPT(CONFIG)
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return LoadedModel(gpt.eval(), CharTokenizer(LETTERS), CONFIG, ServingSettings())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 14), st.booleans()), max_size=30))
def test_blocks_are_never_lost_nor_given_to_two_and_hits_hold_what_was_asked_for(
    moves: list[tuple[str, int, bool]],
) -> None:
    pool, size = BlockPool(8, 3), 3
    content: dict[int, tuple[int, ...]] = {}
    live: list[tuple[list[int], list[int]]] = []
    for letter, length, ends in moves:
        if ends and live:
            table, _ = live.pop(0)
            pool.give_back(table)
            continue
        tokens = [ord(letter)] * (length // 2) + [ord("z")] * (length - length // 2)
        table = pool.match(tokens)
        for index, block in enumerate(table):
            assert content[block] == tuple(tokens[: (index + 1) * size])
        start = len(table) * size
        assert start < length
        while len(table) < pool.needed(length):
            block = pool.take()
            if block is None:
                break
            content.pop(block, None)
            table.append(block)
        if len(table) < pool.needed(length):
            pool.give_back(table)
            continue
        pool.remember(table, tokens, start, length)
        for index in range(length // size):
            content.setdefault(table[index], tuple(tokens[: (index + 1) * size]))
        live.append((table, tokens))
        held = {block for table, _ in live for block in table}
        assert pool.used == len(held)
        assert pool.used + pool.free == pool.count
    for table, _ in live:
        pool.give_back(table)
    assert pool.free == pool.count


def answers(core: EngineCore, prompts: dict[int, str]) -> tuple[dict[int, str], list[StepReport]]:
    """What the engine says to prompts that come all at once, and the reports of its steps."""
    for number, prompt in prompts.items():
        params = SamplingParams(max_tokens=20, temperature=0.8, seed=number)
        core.add(number, CharTokenizer(LETTERS).encode(prompt), params, arrived_at=0.0)
    texts, reports = dict.fromkeys(prompts, ""), []
    while core.has_work:
        reports.append(core.step())
        for update in reports[-1].updates:
            assert update.error is None
            texts[update.number] += update.text
    assert core.blocks.used == 0, "a block was leaked"
    return texts, reports


def engine(**settings: Any) -> EngineCore:
    return engine_for(replace(model(), serving=ServingSettings(**{"block_size": 4, "max_batch": 8, **settings})))


def with_blocks(count: int) -> EngineCore:
    """An engine whose cache has `count` blocks of 4 tokens."""
    loaded = model()
    plan = CachePlan(count, 4, 0)
    cpu = torch.device("cpu")
    cache = PagedCache(loaded.model.shape, plan, cpu, torch.float32)
    runner = Runner(loaded.model, cache, cpu, torch.float32)
    return EngineCore(runner, loaded.tokenizer, BlockPool(count, 4), max_batch=6, max_batch_tokens=512)


def test_sequences_that_must_give_way_are_computed_again_and_say_the_same() -> None:
    prompts = {number: LETTERS[number:] + LETTERS[:number] for number in range(1, 7)}
    roomy, _ = answers(engine(), prompts)
    # Six sequences grow to 46 tokens each; two of them fill the cache.
    tight, reports = answers(with_blocks(24), prompts)
    assert sum(report.preemptions for report in reports) > 0
    assert tight == roomy


def test_sequences_of_very_different_lengths_are_read_apart_and_say_the_same() -> None:
    prompts = {1: "a", 2: LETTERS, 3: "bc", 4: "xyz", 5: "q"}
    alone = {number: answers(engine(), {number: prompt})[0][number] for number, prompt in prompts.items()}
    assert answers(engine(), prompts)[0] == alone
    assert answers(engine(block_size=2), prompts)[0] == alone


@pytest.mark.parametrize("budget", [512, 9])
def test_a_shared_prefix_is_computed_once_and_changes_no_answer(budget: int) -> None:
    prompts = {1: "abcdefghijklmnop" + "q", 2: "abcdefghijklmnop" + "xyz", 3: "abcdefghijk", 4: "zzz"}
    alone = {number: answers(engine(), {number: prompt})[0][number] for number, prompt in prompts.items()}
    core = engine(max_batch_tokens=budget)
    cached, hits = [], 0
    for number, prompt in prompts.items():
        texts, reports = answers(core, {number: prompt})
        assert texts[number] == alone[number]
        hits += sum(report.prefix_hits for report in reports)
        cached += [finished.cached_tokens for report in reports for finished in report.finished]
    assert cached == [0, 16, 8, 0]
    assert hits == 24


def test_a_cache_too_small_for_one_context_is_refused_with_what_would_fit() -> None:
    shape = Shape(n_layer=30, n_head=9, n_kv_head=3, head_dim=64, context=8192, vocab_size=10)
    assert bytes_per_token(shape, torch.bfloat16) == 2 * 30 * 3 * 64 * 2
    with pytest.raises(ConfigError, match=r"needs 180 MiB.*100 MiB are asked for; 4528 tokens would fit"):
        plan_cache(shape, torch.bfloat16, max_batch=4, block_size=16, asked_bytes=100 << 20, available_bytes=1 << 40)
    plan = plan_cache(shape, torch.bfloat16, max_batch=4, block_size=16, asked_bytes=0, available_bytes=300 << 20)
    assert 8192 <= plan.blocks * 16 < 4 * 8192
    assert plan.nbytes <= 300 << 20


def test_steps_replayed_over_fixed_memory_give_the_same_answers() -> None:
    """What a GPU replays, here computed anew each time from the same fixed inputs: padding and tables are the same."""
    prompts = {number: LETTERS[: 3 * number] for number in range(1, 6)}
    alone, _ = answers(engine(), prompts)
    loaded = model()
    cache = PagedCache(loaded.model.shape, CachePlan(64, 4, 0), torch.device("cpu"), torch.float32)
    runner = Runner(loaded.model, cache, torch.device("cpu"), torch.float32)
    replays = []

    def capture(compute: Callable[[], Tensor]) -> Callable[[], Tensor]:
        fixed = compute()

        def replay() -> Tensor:
            replays.append(1)
            return fixed.copy_(compute())

        return replay

    runner._graphs = DecodeGraphs(loaded.model, cache, torch.float32, capture)
    core = EngineCore(runner, loaded.tokenizer, BlockPool(64, 4), max_batch=6, max_batch_tokens=512)
    assert answers(core, prompts)[0] == alone
    assert len(replays) >= 19


def test_memory_in_huge_pages_keeps_what_it_held() -> None:
    weights = [torch.arange(1 << 20, dtype=torch.int64) * n for n in range(3)]
    collapse()
    assert all(torch.equal(one, torch.arange(1 << 20, dtype=torch.int64) * n) for n, one in enumerate(weights))
