"""From a verified bundle to a model that can run. Weights are safetensors; nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors

from engine.serving.bundle import CONFIG_NAME, WEIGHTS_NAME, Bundle, BundleRefused, read_bundle
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.settings import ServingSettings, serving_settings
from engine.serving.tokenizer import CharTokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to generate: in eval mode, on its device, in its dtype."""

    model: GPT
    tokenizer: CharTokenizer
    config: GPTConfig
    serving: ServingSettings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.token_embedding.weight.device


def default_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load_bundle(path: Path, expected_digest: str | None) -> LoadedModel:
    """Verify and load the bundle in `path` onto the default device. Raises BundleRefused or ConfigError."""
    bundle = read_bundle(Path(path), expected_digest)
    return load_model(bundle, serving_settings(bundle.serving, {}))


def load_model(bundle: Bundle, serving: ServingSettings, device: torch.device | None = None) -> LoadedModel:
    """The model of a verified bundle. Raises BundleRefused when its files do not fit each other."""
    try:
        config = GPTConfig.from_json(bundle.config)
    except ValueError as error:
        raise BundleRefused(f"{CONFIG_NAME} of release {bundle.release_id} cannot be used: {error}") from error
    if bundle.tokenizer.vocab_size != config.vocab_size:
        raise BundleRefused(
            f"release {bundle.release_id} has {bundle.tokenizer.vocab_size} characters in its tokenizer, "
            f"but a model of {config.vocab_size}"
        )
    # Not on the meta device: its first use imports torch's decompositions, 0.9 s that every replica would wait for.
    model = GPT(config)
    try:
        weights = parse_safetensors(bundle.weights)
        model.load_state_dict(weights, strict=True, assign=True)
    except SafetensorError as error:
        raise BundleRefused(f"{WEIGHTS_NAME} of release {bundle.release_id} is no safetensors file: {error}") from error
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise BundleRefused(
            f"{WEIGHTS_NAME} of release {bundle.release_id} does not fit its {CONFIG_NAME}: {detail}"
        ) from error
    dtype: torch.dtype = getattr(torch, serving.dtype)
    model.to(device=device or default_device(), dtype=dtype).eval().requires_grad_(False)
    return LoadedModel(model=model, tokenizer=bundle.tokenizer, config=config, serving=serving)
