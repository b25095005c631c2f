"""What is asked for, and what comes back: the values between the HTTP front and the engine. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 admit every token. A `seed` fixes the request's own stream of
    random numbers, whatever else is in the batch; None draws a fresh one.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


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
class Update:
    """News of one request after a step: new text, tokens so far, and how it ended if it did."""

    number: int
    text: str
    completion_tokens: int
    finish: FinishReason | None = None
    error: ErrorKind | None = None
