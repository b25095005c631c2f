"""Generating text in-process, without a server: the pipeline's evaluate stage compares answers with it."""

from __future__ import annotations

from dataclasses import replace

from engine.serving.compute.assemble import engine_for, served_shape
from engine.serving.loader import LoadedModel
from engine.serving.request import FinishReason, SamplingParams
from state.words import OperationFailed


def generate_text(loaded: LoadedModel, prompt: str, max_tokens: int, *, temperature: float = 0.0, seed: int = 0) -> str:
    """The continuation of `prompt`, without it: the same engine, and for a seed the same text, as when served.

    At most the context less one token is generated, and of a prompt that does not fit beside it the end is kept.
    Raises ValueError on an empty prompt or max_tokens below 1, OperationFailed when the model cannot generate.
    """
    tokens = loaded.tokenizer.encode(prompt)
    if not tokens or max_tokens < 1:
        raise ValueError("generate_text needs a prompt of at least one character and max_tokens of at least 1")
    context = served_shape(loaded).context
    if context < 2:
        raise ValueError("a model with a context of one token cannot generate")
    wanted = min(max_tokens, context - 1)
    settings = loaded.serving.model_copy(update={"max_batch": 1, "max_batch_tokens": context})
    core = engine_for(replace(loaded, serving=settings))
    params = SamplingParams(max_tokens=wanted, temperature=temperature, seed=seed)
    core.add(1, tokens[-(context - wanted) :], params, arrived_at=0.0)
    text = ""
    while core.has_work:
        for update in core.step().updates:
            if update.finish is FinishReason.ERROR:
                raise OperationFailed(f"the model cannot generate a token: {update.error}")
            text += update.text
    return text
