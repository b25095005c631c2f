"""From a loaded model to an engine: its products packed or quantized, its cache sized, its scheduler set up."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable
from dataclasses import replace as changed

import torch
from torch import nn

from engine.serving.compute.blocks import BlockPool
from engine.serving.compute.core import EngineCore
from engine.serving.compute.hugepages import WORTH_COLLAPSING, collapse
from engine.serving.compute.kv_cache import PagedCache, available_bytes, plan_cache
from engine.serving.compute.native.kernels import Kernels, kernels
from engine.serving.compute.native.model import can_attend, can_compute, exchange, is_exchanged
from engine.serving.compute.packing import pack
from engine.serving.compute.quantize import quantize
from engine.serving.compute.runner import Runner
from engine.serving.loader import LoadedModel
from engine.serving.models.decoder import Shape
from engine.serving.models.gpt import GPT
from engine.serving.models.llama import RMSNorm


def optimize(loaded: LoadedModel) -> None:
    """Exchange the model's matrix products for faster ones, in place. Raises ConfigError; do it once, before serving."""
    settings, model = loaded.serving, loaded.model
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if isinstance(model, GPT):
        model.give_head()
    native = _native(loaded)
    if native is not None and _may_exchange(loaded):
        exchange(model, native, in_int8=settings.quantization != "none")
    elif settings.quantization != "none":
        quantize(model, settings.quantization, loaded.device)
    elif loaded.device.type == "cpu":
        pack(model, getattr(torch, settings.dtype))
    if loaded.device.type == "cpu":
        _widen_norms(model)
    _own_memory(model)
    if loaded.device.type == "cpu" and weights >= WORTH_COLLAPSING:
        collapse()


def _native(loaded: LoadedModel) -> Kernels | None:
    """The compiled kernels, where they may be used for this model's attention."""
    settings = loaded.serving
    if loaded.device.type != "cpu" or not settings.native_kernels:
        return None
    return kernels() if can_attend(loaded.model.shape, getattr(torch, settings.dtype)) else None


def _may_exchange(loaded: LoadedModel) -> bool:
    """Whether the compiled products are the faster ones for this model.

    oneDNN's are where the processor multiplies bfloat16: a prompt's rows ten times as fast. 4 bits are torch's own.
    """
    if torch.ops.mkldnn._is_mkldnn_bf16_supported() or loaded.serving.quantization == "int4":
        return False
    return can_compute(loaded.model)


def _widen_norms(model: nn.Module) -> None:
    """Keep the norms' few weights in float32, in which the norms compute: they need not be converted at every call."""
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.weight.data = module.weight.data.float()


def _own_memory(model: nn.Module) -> None:
    """Give what was not exchanged memory of its own, and the rest back to the system.

    One tensor that still looks into the mapped file would keep every page of it in memory, beside the packed weights.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # a C library without it keeps what it has; nothing breaks
        ctypes.CDLL(None).malloc_trim(0)


def served_shape(loaded: LoadedModel) -> Shape:
    """The model's shape with the context that the settings allow."""
    shape, limit = loaded.model.shape, loaded.serving.max_context
    return changed(shape, context=min(shape.context, limit)) if limit else shape


def engine_for(loaded: LoadedModel, clock: Callable[[], float] = time.monotonic) -> EngineCore:
    """An engine with a cache of its own. Raises ConfigError when not even one context fits into memory."""
    settings, shape = loaded.serving, served_shape(loaded)
    dtype: torch.dtype = getattr(torch, settings.dtype)
    plan = plan_cache(
        shape,
        dtype,
        max_batch=settings.max_batch,
        block_size=min(settings.block_size, shape.context),
        asked_bytes=settings.kv_cache_mib << 20,
        available_bytes=available_bytes(loaded.device),
    )
    cache = PagedCache(shape, plan, loaded.device, dtype)
    activations = torch.float32 if is_exchanged(loaded.model) else dtype
    return EngineCore(
        Runner(loaded.model, cache, loaded.device, activations, _native(loaded)),
        loaded.tokenizer,
        BlockPool(plan.blocks, plan.block_size),
        max_batch=settings.max_batch,
        max_batch_tokens=settings.max_batch_tokens,
        prefix_cache=settings.prefix_cache,
        clock=clock,
    )
