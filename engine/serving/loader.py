"""From a verified bundle to a model that can run. Weights are safetensors; nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.serving.bundle import CONFIG_NAME, Bundle, BundleRefused, read_bundle
from engine.serving.memory import Need, available_on_cpu, refuse_unless_fits
from engine.serving.models.gpt import ARCHITECTURE as GPT_ARCHITECTURE
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.models.llama import Llama, weight_sources
from engine.serving.models.llama_config import ARCHITECTURES as LLAMA_ARCHITECTURES
from engine.serving.models.llama_config import LlamaConfig, architecture_of
from engine.serving.settings import ServingSettings, serving_settings
from engine.serving.tokenizer import CharTokenizer, Tokenizer
from engine.serving.weights import Weights

Model = GPT | Llama
ModelConfig = GPTConfig | LlamaConfig


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to generate: in eval mode, on its device, in its dtype."""

    model: Model
    tokenizer: Tokenizer
    config: ModelConfig
    serving: ServingSettings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_bundle(path: Path, expected_digest: str | None) -> LoadedModel:
    """Verify and load the bundle in `path` onto the default device. Raises BundleRefused, ConfigError or DoesNotFit."""
    bundle = read_bundle(Path(path), expected_digest)
    return load_model(bundle, serving_settings(bundle.serving, {}))


def load_model(bundle: Bundle, serving: ServingSettings, device: torch.device | None = None) -> LoadedModel:
    """The model of a verified bundle.

    Raises BundleRefused when its files do not fit each other, DoesNotFit when they do not fit into memory.
    """
    device = device or default_device()
    dtype: torch.dtype = getattr(torch, serving.dtype)
    config = _config(bundle)
    _refuse_other_tokenizer(bundle, config)
    weights = Weights(bundle.weights)
    sources = _sources(config, weights)
    weights.refuse_unless_there(sources)
    refuse_unless_fits(_need(config, weights, sources, serving), serving.dtype, _available(device), str(device))
    try:
        tensors = {name: weights.joined(parts, dtype, device) for name, parts in sources.items()}
        model = _filled(config, tensors)
    except (RuntimeError, IndexError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        detail = " ".join(str(error).split())
        raise BundleRefused(
            f"the weights of release {bundle.release_id} do not fit its {CONFIG_NAME}: {detail}"
        ) from error
    # Again at the end: whoever wrote to a file while it was read made a model that nobody released.
    for file in bundle.weights:
        file.refuse_if_changed()
    model.to(device=device, dtype=dtype).eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=bundle.tokenizer, config=config, serving=serving)


def _config(bundle: Bundle) -> ModelConfig:
    architecture = architecture_of(bundle.config) or GPT_ARCHITECTURE
    try:
        if architecture == GPT_ARCHITECTURE:
            return GPTConfig.from_json(bundle.config)
        if architecture in LLAMA_ARCHITECTURES:
            return LlamaConfig.from_json(bundle.config)
    except ValueError as error:
        raise BundleRefused(f"{CONFIG_NAME} of release {bundle.release_id} cannot be used: {error}") from error
    raise BundleRefused(
        f"{CONFIG_NAME} of release {bundle.release_id} cannot be used: architecture is {architecture!r}",
        hint=f"this model server runs {', '.join((GPT_ARCHITECTURE, *LLAMA_ARCHITECTURES))}",
    )


def _refuse_other_tokenizer(bundle: Bundle, config: ModelConfig) -> None:
    """A character vocabulary is the model's exactly; a larger one's rows are often padded beyond the tokenizer's."""
    known, size = bundle.tokenizer.vocab_size, config.vocab_size
    if isinstance(bundle.tokenizer, CharTokenizer) and known != size:
        raise BundleRefused(
            f"release {bundle.release_id} has {known} characters in its tokenizer, but a model of {size}"
        )
    if known > size:
        raise BundleRefused(
            f"the tokenizer of release {bundle.release_id} has ids up to {known - 1}, but its model ends at {size - 1}: "
            "it is another model's"
        )


def _sources(config: ModelConfig, weights: Weights) -> Mapping[str, tuple[str, ...]]:
    """For each parameter, the tensors of the files that it is made of. Our own files have the parameters' names."""
    if config.n_layer > len(weights.names):
        # Before anything is made for each of them: the number may be anything.
        raise BundleRefused(
            f"{CONFIG_NAME} says {config.n_layer} layers, and the weights are {len(weights.names)} tensors in all"
        )
    if isinstance(config, LlamaConfig):
        sources = dict(weight_sources(config))
        if config.is_tied:
            # The embedding again: it is loaded once.
            del sources["lm_head.weight"]
        return sources
    return {name: (name,) for name in sorted(weights.names)}


def _need(
    config: ModelConfig, weights: Weights, sources: Mapping[str, tuple[str, ...]], serving: ServingSettings
) -> Need:
    if isinstance(config, LlamaConfig):
        per_token, context = 2 * config.n_layer * config.n_kv_head * config.head_dim, config.context
    else:
        per_token, context = 2 * config.n_layer * config.n_embd, config.block_size
    return Need(
        weights=weights.count([name for parts in sources.values() for name in parts]),
        cache_per_token=per_token,
        context=min(context, serving.max_context or context),
    )


def _available(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_on_cpu()


def _filled(config: ModelConfig, tensors: dict[str, Tensor]) -> Model:
    """The model of these weights. Raises RuntimeError when they are not its own."""
    if isinstance(config, LlamaConfig):
        llama = Llama(config)
        if config.is_tied:
            tensors["lm_head.weight"] = tensors["embedding.weight"]
        llama.load_state_dict(tensors, strict=True, assign=True)
        llama.tie()
        return llama
    # Not on the meta device: its first random initialisation imports torch's decompositions, 0.9 s for every replica.
    gpt = GPT(config)
    gpt.load_state_dict(tensors, strict=True, assign=True)
    return gpt
