"""What a person may set of a training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from engine.pipelines.stages.settings import Settings


class TrainSettings(Settings):
    """The recipe. `threads` 0 is as many as help; `lr` None fits the width; `dtype` auto is bfloat16 where it is faster."""

    steps: int = Field(default=600, ge=1)
    batch: int = Field(default=32, ge=1)
    lr: float | None = Field(default=None, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    seed: int = Field(default=1337, ge=0, lt=2**40)
    n_layer: int = Field(default=4, ge=1)
    n_head: int = Field(default=4, ge=1)
    n_embd: int = Field(default=128, ge=1)
    block_size: int = Field(default=64, ge=2)
    threads: int = Field(default=0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    weights_from: str | None = None
