"""The pure parts of the model server: scheduler, sampling, stop strings, readiness, faults, tokenizer."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.serving.compute.blocks import BlockPool
from engine.serving.compute.sampling import Draw, sample
from engine.serving.compute.scheduler import Generation, Scheduler
from engine.serving.front.fault import FaultInjector, refuse_unless_allowed
from engine.serving.loop import EngineStatus, LoopState
from engine.serving.readiness import why_not_ready
from engine.serving.request import SamplingParams
from engine.serving.settings import FaultSettings, serving_settings
from engine.serving.text import StopFilter
from engine.serving.tokenizer import CharTokenizer
from state.words import ConfigError


def generation(number: int, prompt: int) -> Generation:
    return Generation(number, [number] * prompt, SamplingParams(max_tokens=8), CharTokenizer("ab").stream())


def prioritised(number: int, prompt: int, priority: int) -> Generation:
    params = SamplingParams(max_tokens=8, priority=priority)
    return Generation(number, [number] * prompt, params, CharTokenizer("ab").stream())


def scheduler_of(max_batch: int, max_batch_tokens: int, blocks: int = 256, size: int = 4) -> Scheduler:
    return Scheduler(max_batch, max_batch_tokens, BlockPool(blocks, size))


def advance(scheduler: Scheduler) -> list[tuple[int, int]]:
    """Do what the engine does after a step; returns (number, tokens computed)."""
    chunks = scheduler.schedule()
    for chunk in chunks:
        samples = chunk.samples
        scheduler.computed(chunk)
        if samples:
            chunk.generation.tokens.append(0)
    return [(chunk.generation.number, chunk.count) for chunk in chunks]


def test_a_long_prompt_is_computed_in_chunks_while_the_others_keep_decoding() -> None:
    scheduler = scheduler_of(4, 8)
    scheduler.add(generation(1, 3))
    assert advance(scheduler) == [(1, 3)]
    scheduler.add(generation(2, 20))
    assert [advance(scheduler) for _ in range(4)] == [
        [(1, 1), (2, 7)],
        [(1, 1), (2, 7)],
        [(1, 1), (2, 6)],
        [(1, 1), (2, 1)],
    ]


def test_requests_wait_in_order_of_arrival_until_a_slot_is_free() -> None:
    scheduler = scheduler_of(2, 64)
    first, second, third, fourth = (generation(number, 2) for number in (1, 2, 3, 4))
    for one in (first, second, third, fourth):
        scheduler.add(one)
    assert advance(scheduler) == [(1, 2), (2, 2)]
    scheduler.remove(third)
    scheduler.remove(first)
    assert advance(scheduler) == [(2, 1), (4, 2)]


@given(
    prompts=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    max_batch=st.integers(1, 6),
    extra=st.integers(0, 30),
)
def test_every_step_keeps_to_its_budget_and_every_request_gets_through(
    prompts: list[int], max_batch: int, extra: int
) -> None:
    budget = max_batch + extra
    scheduler = scheduler_of(max_batch, budget)
    live = {number: generation(number, prompt) for number, prompt in enumerate(prompts)}
    for one in live.values():
        scheduler.add(one)
    steps = 0
    while scheduler.has_work:
        steps += 1
        assert steps < 2000
        done = advance(scheduler)
        assert 0 < sum(count for _, count in done) <= budget
        held = [block for one in scheduler.running for block in one.table]
        assert len(scheduler.running) <= max_batch
        assert len(set(held)) == len(held) == scheduler.blocks.used
        for one in list(scheduler.running):
            if one.completion_tokens == 3:
                scheduler.remove(one)


def test_sampling_follows_the_distribution_and_each_row_its_own_parameters() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    count = 4000
    draws = [(index + 0.5) / count for index in range(count)]

    def shares(params: SamplingParams) -> list[float]:
        chosen = sample(logits.repeat(count, 1), [Draw(params, uniform) for uniform in draws])
        tokens = Counter(one.token for one in chosen)
        return [round(tokens[token] / count, 2) for token in range(4)]

    assert shares(SamplingParams(1, temperature=1.0)) == [0.5, 0.3, 0.15, 0.05]
    assert shares(SamplingParams(1, temperature=1.0, top_k=2)) == [0.62, 0.38, 0.0, 0.0]
    assert shares(SamplingParams(1, temperature=1.0, top_p=0.6)) == [0.62, 0.38, 0.0, 0.0]
    assert shares(SamplingParams(1, temperature=1.0, top_p=0.01)) == [1.0, 0.0, 0.0, 0.0]
    assert shares(SamplingParams(1, temperature=0.0)) == [1.0, 0.0, 0.0, 0.0]
    mixed = [SamplingParams(1, temperature=0.0), SamplingParams(1, temperature=1.0), SamplingParams(1, top_k=1)]
    chosen = sample(logits.repeat(3, 1), [Draw(params, 0.99) for params in mixed])
    assert [one.token for one in chosen] == [0, 3, 0]


@given(text=st.text("ab", max_size=30), stop=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_stop_strings_are_found_however_the_text_is_cut(text: str, stop: list[str]) -> None:
    places = [at for at in (text.find(one) for one in stop) if at >= 0]
    stream, shown = StopFilter(tuple(stop)), ""
    for char in text:
        piece, stopped = stream.push(char)
        shown += piece
        if stopped:
            break
    else:
        shown += stream.flush()
    if not places:
        assert shown == text
    else:
        # Of overlapping stop strings the one that is complete first ends the text.
        ends = [text.find(one) + len(one) for one in stop if one in text]
        assert text.startswith(shown)
        assert len(shown) <= min(ends)
        assert not any(one in shown for one in stop)


def test_unknown_characters_become_the_replacement_and_never_fail() -> None:
    tokenizer = CharTokenizer.train("what? no\n")
    assert tokenizer.decode(tokenizer.encode("wh\u00e4t")) == "wh?t"
    assert CharTokenizer.from_json(tokenizer.to_json()).chars == tokenizer.chars
    assert CharTokenizer("ab").decode(CharTokenizer("ab").encode("zb")) == "ab"
    with pytest.raises(ValueError, match="twice"):
        CharTokenizer("aa")


def status(
    state: LoopState = LoopState.SERVING, beat: float = 99.0, progress: float = 99.0, tokens: int = 2
) -> EngineStatus:
    return EngineStatus(state, "why", beat, progress, 5, tokens, 0, 0)


@pytest.mark.parametrize(
    ("engine", "is_draining", "reason"),
    [
        (status(), False, None),
        (status(LoopState.STARTING), False, "starting: why"),
        (status(LoopState.DEAD), True, "the engine died: why"),
        (status(LoopState.STOPPED), False, "has stopped"),
        (status(tokens=0), False, "no token"),
        (status(), True, "draining"),
        (status(beat=89.0), False, "stuck"),
        (status(progress=80.0), False, "stuck: no step has finished for 20.0 s"),
    ],
)
def test_ready_means_a_token_came_out_and_the_loop_moves(
    engine: EngineStatus, is_draining: bool, reason: str | None
) -> None:
    answer = why_not_ready(engine, now=100.0, stuck_after_s=10.0, is_draining=is_draining)
    assert answer is None if reason is None else reason in str(answer)


def test_faults_are_refused_unless_allowed_and_repeat_by_seed() -> None:
    fault = FaultSettings(latency_ms=20, error_rate=0.5, seed=4)
    with pytest.raises(ConfigError, match="charlm-2 asks for injected faults"):
        refuse_unless_allowed(fault, False, "charlm-2")
    refuse_unless_allowed(fault, True, "charlm-2")
    refuse_unless_allowed(None, False, "charlm-2")
    one, two = FaultInjector(fault), FaultInjector(fault)
    outcomes = [one.next() for _ in range(200)]
    assert outcomes == [two.next() for _ in range(200)]
    assert 70 < sum(injected.fails for injected in outcomes) < 130
    assert {injected.delay_s for injected in outcomes} == {0.02}


def test_serving_settings_name_the_field_that_is_wrong() -> None:
    settings = serving_settings({"max_batch": 4, "fault": None}, {"max_queue": 3})
    assert (settings.max_batch, settings.max_queue, settings.fault) == (4, 3, None)
    for wrong, field in (
        ({"max_batch": 0}, "max_batch"),
        ({"max_bach": 4}, "max_bach"),
        ({"fault": {"error_rate": 2}}, "fault.error_rate"),
    ):
        with pytest.raises(ConfigError, match=field.replace(".", r"\.")):
            serving_settings(wrong, {})
    with pytest.raises(ConfigError, match="max_batch_tokens must be at least max_batch"):
        serving_settings({"max_batch": 8, "max_batch_tokens": 4}, {})


def test_the_smallest_repetition_penalty_still_draws_among_what_was_said() -> None:
    params = SamplingParams(max_tokens=1, temperature=1.0, repetition_penalty=1e-300)
    logits = torch.linspace(1.0, 2.0, 50)[None]
    drawn = {sample(logits, [Draw(params, uniform, [3, 7], [9])])[0].token for uniform in (0.0, 0.5, 0.999999)}
    assert drawn <= {3, 7, 9}


@pytest.mark.parametrize(("max_batch", "blocks"), [(2, 256), (8, 5)])
def test_an_urgent_request_takes_the_place_of_a_less_urgent_one_that_runs(max_batch: int, blocks: int) -> None:
    """Once the batch is full, once the cache."""
    scheduler = scheduler_of(max_batch, 64, blocks=blocks)
    for number in (1, 2):
        scheduler.add(prioritised(number, 8, priority=10))
    assert advance(scheduler) == [(1, 8), (2, 8)]
    scheduler.add(prioritised(3, 8, priority=0))
    scheduler.add(prioritised(4, 8, priority=10))
    assert [number for number, _ in advance(scheduler)] == [1, 3]
    assert scheduler.preemptions == 1
    for one in list(scheduler.running):
        scheduler.remove(one)
    assert advance(scheduler)[0][0] == 2, "whoever gave way goes on before those that came later"


@pytest.mark.parametrize("filters", [{}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}])
def test_a_temperature_next_to_zero_takes_the_likeliest_token(filters: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 50) * 5
    params = SamplingParams(max_tokens=1, temperature=5e-324, **filters)
    for uniform in (0.0, 0.5, 0.999999):
        assert sample(logits, [Draw(params, uniform)])[0].token == int(logits.argmax())
