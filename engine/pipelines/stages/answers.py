"""Prompt regression: what a model answers to the fixed prompts, what is wrong with it, how near it is to another's."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

import torch

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
    found = []
    for name, prompt in PROMPTS:
        text = continue_text(model, tokenizer, prompt, max_tokens)
        found.append(Answer(name, prompt, text, faults(text)))
    return tuple(found)


def continue_text(model: GPT, tokenizer: CharTokenizer, prompt: str, max_tokens: int) -> str:
    """`max_tokens` characters after `prompt`, the likeliest each time, within the model's context.

    The first is never white space: indentation alone would say nothing of the model.
    """
    tokens = tokenizer.encode(prompt)
    device = model.token_embedding.weight.device
    blank = torch.tensor([char.isspace() for char in tokenizer.chars], device=device)
    with torch.no_grad():
        for place in range(max_tokens):
            seen = torch.tensor([tokens[-model.config.block_size :]], device=device)
            logits = model(seen)[0, -1]
            tokens.append(int((logits.masked_fill(blank, -torch.inf) if place == 0 else logits).argmax()))
    return tokenizer.decode(tokens[-max_tokens:]) if max_tokens else ""


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
