"""The engine without a server: batches, chunks, seeds, stop strings, memory, broken weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.serving.compute.assemble import engine_for
from engine.serving.compute.attention import Row
from engine.serving.compute.core import EngineCore
from engine.serving.compute.generate import generate_text
from engine.serving.compute.runner import StepRunner
from engine.serving.loader import LoadedModel
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.request import ErrorKind, FinishReason, SamplingParams, Update
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=48, vocab_size=26)
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """A random model with weights wide enough that its tokens vary."""
    torch.manual_seed(7)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    return LoadedModel(model.eval(), CharTokenizer(LETTERS), CONFIG, ServingSettings())


def engine(loaded: LoadedModel, max_batch: int = 8, max_batch_tokens: int = 256, **settings: Any) -> EngineCore:
    serving = {"max_batch": max_batch, "max_batch_tokens": max_batch_tokens, "block_size": 4, **settings}
    return engine_for(replace(loaded, serving=ServingSettings(**serving)))


def run(core: EngineCore, requests: dict[int, tuple[str, SamplingParams]], arrive_every: int = 0) -> dict[int, str]:
    """Texts by number; with `arrive_every` n, a request arrives each n steps, so that batches keep changing."""
    waiting = list(requests.items())
    texts = dict.fromkeys(requests, "")
    step = 0
    while waiting or core.has_work:
        while waiting and (not arrive_every or step % arrive_every == 0 or not core.has_work):
            number, (prompt, params) = waiting.pop(0)
            core.add(number, CharTokenizer(LETTERS).encode(prompt), params, arrived_at=0.0)
            if arrive_every:
                break
        step += 1
        for update in core.step().updates:
            assert update.error is None
            texts[update.number] += update.text
    return texts


def mixed_requests(temperature: float) -> dict[int, tuple[str, SamplingParams]]:
    rng = random.Random(3)
    return {
        number: (
            "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 24))),
            SamplingParams(
                max_tokens=rng.randint(1, 24), temperature=temperature, top_k=rng.choice([0, 5]), seed=number
            ),
        )
        for number in range(1, 15)
    }


def test_cached_decoding_gives_the_tokens_of_the_whole_forward_pass(loaded: LoadedModel) -> None:
    prompt, expected = "hello", ""
    ids = loaded.tokenizer.encode(prompt)
    while len(ids) < CONFIG.block_size:
        with torch.no_grad():
            ids.append(int(loaded.model(torch.tensor([ids]))[0, -1].argmax()))
        expected = loaded.tokenizer.decode(ids[len(prompt) :])
    params = SamplingParams(max_tokens=CONFIG.block_size - len(prompt), temperature=0.0)
    assert run(engine(loaded), {1: (prompt, params)})[1] == expected
    assert len(set(expected)) > 3, "the model is too dull for this test to mean anything"


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize(("max_batch", "budget", "arrive_every"), [(8, 256, 0), (3, 256, 2), (4, 7, 1)])
def test_a_requests_tokens_do_not_depend_on_the_batch_around_it(
    loaded: LoadedModel, temperature: float, max_batch: int, budget: int, arrive_every: int
) -> None:
    requests = mixed_requests(temperature)
    alone = {number: run(engine(loaded), {number: request})[number] for number, request in requests.items()}
    together = run(engine(loaded, max_batch, budget), requests, arrive_every)
    assert together == alone


def test_a_cancelled_neighbour_changes_nothing_and_its_slot_is_used_again(loaded: LoadedModel) -> None:
    params = SamplingParams(max_tokens=20, temperature=0.0)
    alone = run(engine(loaded), {2: ("second", params)})[2]
    core = engine(loaded, max_batch=2)
    for number, prompt in ((1, "the first one is longer"), (2, "second"), (3, "waits")):
        core.add(number, loaded.tokenizer.encode(prompt), params, arrived_at=0.0)
    text = "".join(update.text for _ in range(5) for update in core.step().updates if update.number == 2)
    assert (core.running, core.waiting) == (2, 1)
    assert core.cancel(1) is not None
    assert core.cancel(1) is None
    while core.has_work:
        text += "".join(update.text for update in core.step().updates if update.number == 2)
    assert text == alone


def test_the_same_seed_gives_the_same_text_and_another_seed_another(loaded: LoadedModel) -> None:
    first, again, other = (generate_text(loaded, "seed", 30, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_generate_text_keeps_the_end_of_a_prompt_that_is_too_long(loaded: LoadedModel) -> None:
    long = "abcdefgh" * 20
    assert generate_text(loaded, long, 8) == generate_text(loaded, long[-(CONFIG.block_size - 8) :], 8)
    assert len(generate_text(loaded, "a", 1000)) == CONFIG.block_size - 1


def test_a_stop_string_ends_the_text_before_it(loaded: LoadedModel) -> None:
    text = generate_text(loaded, "stop", 30)
    stop = text[10:12]
    params = SamplingParams(max_tokens=30, temperature=0.0, stop=(stop,))
    core = engine(loaded)
    core.add(1, loaded.tokenizer.encode("stop"), params, arrived_at=0.0)
    updates: list[Update] = []
    while core.has_work:
        updates += core.step().updates
    assert "".join(update.text for update in updates) == text[: text.index(stop)]
    assert updates[-1].finish is FinishReason.STOP


class ShortOfMemory:
    """A runner on a device that cannot hold a sequence of more than `limit` tokens, or `limit` rows at once."""

    def __init__(self, runner: StepRunner, limit: int) -> None:
        self._runner = runner
        self._limit = limit

    def run(self, rows: Sequence[Row]) -> Tensor:
        if len(rows) * max(row.end for row in rows) > self._limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return self._runner.run(rows)

    def wipe(self, blocks: Sequence[int]) -> None:
        self._runner.wipe(blocks)


def test_out_of_memory_fails_the_request_that_alone_is_too_much_and_no_other(loaded: LoadedModel) -> None:
    params = SamplingParams(max_tokens=8, temperature=0.0)
    prompts = {1: "ab", 2: "abcdefghijklmnopqrstuvwxyzabcdef", 3: "xyz", 4: "q"}
    core = engine(loaded)
    core.runner = ShortOfMemory(core.runner, 20)
    texts, errors = dict.fromkeys(prompts, ""), {}
    for number, prompt in prompts.items():
        core.add(number, loaded.tokenizer.encode(prompt), params, arrived_at=0.0)
    while core.has_work:
        for update in core.step().updates:
            texts[update.number] += update.text
            if update.error is not None:
                errors[update.number] = update.error
    assert errors == {2: ErrorKind.OUT_OF_MEMORY}
    for number in (1, 3, 4):
        assert texts[number] == generate_text(loaded, prompts[number], 8)


def test_weights_that_are_not_numbers_end_the_request_instead_of_making_up_tokens() -> None:
    model = GPT(CONFIG)
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    broken = LoadedModel(model.eval(), CharTokenizer(LETTERS), CONFIG, ServingSettings())
    for temperature in (0.0, 1.0):
        core = engine(broken)
        core.add(1, [1, 2], SamplingParams(max_tokens=4, temperature=temperature, seed=1), arrived_at=0.0)
        (update,) = core.step().updates
        assert (update.finish, update.error) == (FinishReason.ERROR, ErrorKind.NOT_A_NUMBER)
        assert not core.has_work


def test_what_is_not_a_number_in_one_request_does_not_reach_the_next_one_in_its_blocks(loaded: LoadedModel) -> None:
    core = engine(loaded, kv_cache_mib=1)
    embedding = loaded.model.get_parameter("token_embedding.weight")
    bad, good = 25, embedding[25].clone()
    prompts = {number: (LETTERS[number : number + 9 * number], SamplingParams(9, 0.0)) for number in range(2, 5)}
    expected = run(engine(loaded), prompts)
    with torch.no_grad():
        embedding[bad] = torch.inf
    for number in range(10, 10 + core.blocks.count):
        core.add(number, [bad] * 4, SamplingParams(4, 0.0), arrived_at=0.0)
    while core.has_work:
        assert all(update.error is ErrorKind.NOT_A_NUMBER for update in core.step().updates)
    with torch.no_grad():
        embedding[bad] = good
    assert run(core, prompts) == expected


def test_a_step_reports_times_of_a_request(loaded: LoadedModel) -> None:
    now = [100.0]
    core = engine_for(loaded, clock=lambda: now[0])
    core.add(1, [1, 2, 3], SamplingParams(max_tokens=3, temperature=0.0), arrived_at=98.0)
    first = core.step()
    assert (first.first_token_s, first.gaps_s, first.computed_tokens) == ((2.0,), (), 3)
    now[0] = 101.0
    assert core.step().gaps_s == (1.0,)
    now[0] = 103.0
    (finished,) = core.step().finished
    assert (finished.queue_s, finished.prefill_s, finished.decode_s, finished.e2e_s) == (2.0, 0.0, 3.0, 5.0)
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == (FinishReason.LENGTH, 3, 3)
