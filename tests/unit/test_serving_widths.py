"""A mixed load must not show the model a new shape with every step: each would be prepared for and kept."""

from __future__ import annotations

import random
import time

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from engine.serving.compute.assemble import engine_for
from engine.serving.compute.widths import padded_width
from engine.serving.loader import LoadedModel
from engine.serving.models.decoder import Attend
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.request import SamplingParams
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer

CHARS = "abcdefgh"
CONFIG = GPTConfig(n_layer=1, n_head=2, n_embd=16, block_size=256, vocab_size=len(CHARS))


class Seen(GPT):
    """A model that remembers how many rows it was asked to compute at once."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__(config)
        self.widths: set[int] = set()

    def hidden(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        self.widths.add(tokens.shape[0])
        return super().hidden(tokens, positions, attend)


@given(st.integers(1, 1 << 16))
def test_a_width_holds_its_tokens_and_is_at_most_an_eighth_more(tokens: int) -> None:
    width = padded_width(tokens)
    assert tokens <= width <= tokens * 9 / 8
    assert padded_width(width) == width


def test_there_are_few_widths_however_large_a_step_may_be() -> None:
    assert len({padded_width(tokens) for tokens in range(1, 8193)}) < 100


def test_a_mixed_load_shows_the_model_few_widths_and_gets_the_answers_of_the_whole_forward_pass() -> None:
    torch.manual_seed(2)
    model = Seen(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(10)
    tokenizer = CharTokenizer(CHARS)
    core = engine_for(LoadedModel(model, tokenizer, CONFIG, ServingSettings(max_batch=8, prefix_cache=False)))
    rng = random.Random(5)
    prompts = {n: [rng.randrange(len(CHARS)) for _ in range(rng.randint(1, 200))] for n in range(1, 60)}
    texts = dict.fromkeys(prompts, "")
    waiting = list(prompts)
    while waiting or core.has_work:
        for number in [waiting.pop() for _ in range(min(len(waiting), rng.randint(0, 2)))]:
            core.add(
                number, prompts[number], SamplingParams(max_tokens=3, temperature=0.0), arrived_at=time.monotonic()
            )
        for update in core.step().updates:
            texts[update.number] += update.text
    assert model.widths <= {padded_width(tokens) for tokens in range(1, 600)}
    for number, prompt in prompts.items():
        with torch.inference_mode():
            first = int(model(torch.tensor([prompt]))[0, -1].argmax())
        assert texts[number][0] == CHARS[first]
