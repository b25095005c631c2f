"""Scoring, the comparison with a baseline, and the checks on answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.pipelines.stages.answers import answer_all, continue_texts, faults, longest_run, similarity
from engine.pipelines.stages.evaluate import (
    UNIGRAM,
    Baseline,
    EvaluateSettings,
    _against_baseline,
    _prompt_gates,
)
from engine.pipelines.stages.prompt_set import PROMPTS, prompt_facts
from engine.pipelines.stages.scoring import Difference, bits, compare, model_nats, unigram_nats
from engine.pipelines.stages.text_statistics import Unigram
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer.train("abcdefgh \n?")


def model(block_size: int = 8, seed: int = 0) -> GPT:
    torch.manual_seed(seed)
    return GPT(GPTConfig(1, 2, 16, block_size, TOKENIZER.vocab_size)).eval()


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet="abcdefgh xyz", max_size=60), st.integers(1, 5), st.integers(1, 3))
def test_every_character_but_the_first_is_scored_once_however_it_is_batched(
    text: str, batch: int, threads: int
) -> None:
    scored = model_nats(model(), TOKENIZER, text, batch=batch, threads=threads)
    assert scored.shape == (max(0, len(text) - 1),)
    assert scored == pytest.approx(model_nats(model(), TOKENIZER, text), abs=1e-4)


def test_an_untrained_model_knows_about_nothing() -> None:
    scored = bits(model_nats(model(), TOKENIZER, "abc de " * 50))
    assert scored == pytest.approx(math.log2(TOKENIZER.vocab_size), rel=0.05)
    assert bits(np.zeros(0)) is None


def test_models_of_different_contexts_are_scored_on_the_same_characters() -> None:
    text = "abc def gh " * 30
    assert model_nats(model(8), TOKENIZER, text).shape == model_nats(model(32), TOKENIZER, text).shape


def test_the_unigram_baseline_is_the_entropy_of_its_own_text() -> None:
    text = "ab" * 500
    assert bits(unigram_nats(Unigram.train(text, 2), text)) == pytest.approx(1.0, abs=0.01)


def test_a_clear_difference_has_an_interval_beyond_zero_and_none_has_zero() -> None:
    noise = np.random.default_rng(1)
    base = noise.normal(2.0, 1.0, 20_000)
    better = compare(base - 0.1 + noise.normal(0, 0.5, 20_000), base, resamples=500, confidence=0.95)
    same = compare(base + noise.normal(0, 0.5, 20_000), base, resamples=500, confidence=0.95)
    equal = compare(base, base, resamples=500, confidence=0.95)
    assert better is not None
    assert better.low <= better.mean <= better.high < 0
    assert better.mean == pytest.approx(-0.1 / math.log(2), abs=0.02)
    assert same is not None
    assert same.low < 0 < same.high
    assert equal is not None
    assert (equal.low, equal.mean, equal.high) == (0, 0, 0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    noise = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        drawn = noise.normal(0, 1, 64 * 60)
        found = compare(drawn, np.zeros_like(drawn), resamples=200, confidence=0.9)
        covered += found is not None and found.low <= 0 <= found.high
    assert 78 <= covered <= 98


def test_too_little_text_is_no_comparison_and_different_texts_are_refused() -> None:
    assert compare(np.ones(100), np.ones(100), resamples=100, confidence=0.95) is None
    with pytest.raises(ValueError, match="different texts"):
        compare(np.ones(200), np.ones(300), resamples=100, confidence=0.95)


@pytest.mark.parametrize(
    ("low", "high", "against_unigram", "against_release"),
    [(-0.2, -0.1, True, True), (-0.1, 0.1, False, True), (0.1, 0.2, False, False)],
)
def test_a_first_release_must_be_better_and_a_later_one_not_worse(
    low: float, high: float, against_unigram: bool, against_release: bool
) -> None:
    found = Difference((low + high) / 2, low, high, 100)
    given_ = EvaluateSettings()
    assert _against_baseline(Baseline(UNIGRAM, np.zeros(0)), found, given_).passed is against_unigram
    assert _against_baseline(Baseline("charlm-1", np.zeros(0)), found, given_).passed is against_release


def test_no_comparison_is_never_a_pass() -> None:
    for name in (UNIGRAM, "charlm-1"):
        assert not _against_baseline(Baseline(name, np.zeros(0), trouble="gone"), None, EvaluateSettings()).passed


def test_a_regression_of_answers_is_warned_of_and_many_faults_refuse() -> None:
    gates = {gate.name: gate for gate in _prompt_gates(6, 1, 0.05, EvaluateSettings())}
    assert not gates["prompt_failures"].passed
    assert gates["prompt_failures"].blocking
    assert not gates["prompt_regressions"].passed
    assert not gates["prompt_regressions"].blocking
    assert not gates["prompt_similarity"].blocking
    assert [gate.name for gate in _prompt_gates(0, None, None, EvaluateSettings())] == ["prompt_failures"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a plain answer", ()),
        (" \n ", ("empty",)),
        ("bell\x07 rings", ("unprintable",)),
        ("so " + "o" * 30 + " long", ("runaway",)),
        ("aaa", ("monotone",)),
        ("---------------------------- a rule", ()),
    ],
)
def test_faults_of_answers_are_named(text: str, found: tuple[str, ...]) -> None:
    assert faults(text) == found


def test_runs_similarity_and_the_prompt_sets_identity() -> None:
    assert longest_run("abbbc   ") == 3
    assert similarity("abc", "abc") == 1.0
    assert similarity("abc", "xyz") == 0.0
    facts = prompt_facts()
    assert facts["id"] == f"{facts['name']}/{facts['version']}"
    # A changed set needs a new VERSION: answers to different prompts must not pass as the same test.
    assert (facts["version"], facts["sha256"]) == (
        1,
        "035486e208e535caa59cefb235a3d2b76727180f6cf5bed8cb1213a2a7bd8c6c",
    )


def test_answers_are_greedy_repeatable_and_never_begin_blank() -> None:
    one, two = answer_all(model(), TOKENIZER, 12), answer_all(model(), TOKENIZER, 12)
    assert one == two
    assert [answer.name for answer in one] == [name for name, _ in PROMPTS]
    assert all(len(answer.text) == 12 and not answer.text[0].isspace() for answer in one)
    assert continue_texts(model(), TOKENIZER, ["abc"], 0) == [""]
