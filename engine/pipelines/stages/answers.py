"""Prompt regression: what a model answers to the fixed prompts, what is wrong with it, how near it is to another's."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from engine.pipelines.stages.prompt_set import MAX_TOKENS, PROMPTS
from engine.serving.models.gpt import GPT
from engine.serving.tokenizer import CharTokenizer

LONGEST_RUN = 20
"""More of one character in a row (white space and rule lines like ---- apart) is a runaway."""
MIN_DISTINCT = 4
"""An answer of fewer different characters says nothing."""
_RULES = frozenset(" \n\t-=_*#.+|~")


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt's greedy answer and its faults."""

    name: str
    prompt: str
    text: str
    faults: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"name": self.name, "prompt": self.prompt, "text": self.text, "faults": list(self.faults)}


def answer_all(model: GPT, tokenizer: CharTokenizer, max_tokens: int = MAX_TOKENS) -> tuple[Answer, ...]:
    """The model's greedy answer to every prompt of the set."""
    texts = continue_texts(model, tokenizer, [prompt for _, prompt in PROMPTS], max_tokens)
    return tuple(Answer(name, prompt, text, faults(text)) for (name, prompt), text in zip(PROMPTS, texts, strict=True))


def continue_texts(model: GPT, tokenizer: CharTokenizer, prompts: Sequence[str], max_tokens: int) -> list[str]:
    """`max_tokens` characters after each prompt, the likeliest each time, within the model's context.

    The first is never white space: indentation alone would say nothing of the model. All prompts go through the model
    together: what a short one is filled up with stands after it, where causal attention does not look.
    """
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    device = model.token_embedding.weight.device
    blank = torch.tensor([char.isspace() for char in tokenizer.chars], device=device)
    with torch.no_grad():
        for place in range(max_tokens):
            seen = [torch.tensor(row[-model.config.block_size :]) for row in rows]
            ends = [len(row) - 1 for row in seen]
            logits = model(pad_sequence(seen, batch_first=True).to(device))[range(len(rows)), ends]
            chosen = (logits.masked_fill(blank, -torch.inf) if place == 0 else logits).argmax(-1)
            for row, token in zip(rows, chosen.tolist(), strict=True):
                row.append(token)
    return [tokenizer.decode(row[-max_tokens:]) if max_tokens else "" for row in rows]


def faults(text: str) -> tuple[str, ...]:
    """What no answer may be: `empty`, `unprintable`, `runaway` (one character on and on), `monotone`.

    A small model's greedy answer may well repeat a phrase; that is not among them.
    """
    found = []
    if not text.strip():
        found.append("empty")
    if any(not (char.isprintable() or char in "\n\t") for char in text):
        found.append("unprintable")
    if longest_run(text) > LONGEST_RUN:
        found.append("runaway")
    if text.strip() and len(set(text)) < MIN_DISTINCT:
        found.append("monotone")
    return tuple(found)


def longest_run(text: str) -> int:
    """The length of the longest run of one character that is neither white space nor used to draw lines."""
    longest = run = 0
    previous = ""
    for char in text:
        run = run + 1 if char == previous else 1
        previous = char
        if char not in _RULES:
            longest = max(longest, run)
    return longest


def similarity(one: str, other: str) -> float:
    """0 to 1: twice the characters in common runs over all characters (Ratcliff & Obershelp)."""
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()
