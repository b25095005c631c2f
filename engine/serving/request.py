"""What is asked for, and what comes back: the values between the HTTP front and the engine. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    `temperature` 0 is greedy. `top_k` 0, `top_p` 1 and `min_p` 0 admit every token. Penalties are OpenAI's (presence,
    frequency: on what was generated) and CTRL's (repetition: on prompt and answer; Keskar et al. 2019, §4.1). A `seed`
    fixes the request's own stream of random numbers, whatever else is in the batch; None draws a fresh one.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> what is added to its logit."""
    logprobs: int | None = None
    """None: no log probabilities; n: those of the chosen token and of the n likeliest."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer as the model's own end token does, unseen."""
    ignore_eos: bool = False
    """Go on to `max_tokens` whatever the model says: for measuring."""
    priority: int = 0
    """Lower goes first among those that wait; equals are served in order of arrival."""


class FinishReason(StrEnum):
    """Why a generation ended; the values are vLLM's label values."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class ErrorKind(StrEnum):
    """What went wrong in the engine with one request."""

    OUT_OF_MEMORY = "out_of_memory"
    NOT_A_NUMBER = "not_a_number"
    ENGINE_DEAD = "engine_dead"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural log probabilities at one place, of the model itself: before temperature, penalties and filters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token, logprob) of the likeliest, best first."""


@dataclass(frozen=True, slots=True)
class Update:
    """News of one request after a step: new text, tokens so far, and how it ended if it did."""

    number: int
    text: str
    completion_tokens: int
    finish: FinishReason | None = None
    error: ErrorKind | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the tokens this step added, when they were asked for."""
