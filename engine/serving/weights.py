"""Tensors out of safetensors files, one parameter at a time: a load needs the model once, and its largest part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.serving.bundle import BundleRefused, WeightsFile

DTYPES = ("F32", "F16", "BF16")
"""How weights may be stored, in safetensors' words."""


class Weights:
    """The tensors of a bundle by name, over however many files. Raises BundleRefused on a file that is none."""

    def __init__(self, files: Sequence[WeightsFile]) -> None:
        self._files: dict[str, WeightsFile] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for file in files:
            file.refuse_if_changed()
            try:
                with safe_open(file.path, framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 - the handle is no mapping
                        self._add(name, file, opened.get_slice(name))
            except SafetensorError as error:
                raise BundleRefused(f"{file.path} is no safetensors file, or only part of one: {error}") from error

    def _add(self, name: str, file: WeightsFile, found: Any) -> None:
        if name in self._files:
            raise BundleRefused(f"{file.path} and {self._files[name].path} both hold the tensor {name}")
        dtype = str(found.get_dtype())
        if dtype not in DTYPES:
            raise BundleRefused(
                f"{file.path}: the tensor {name} is stored as {dtype}; weights are {', '.join(DTYPES)} here",
                hint="export the model in one of them; quantization is a serving setting",
            )
        self._files[name] = file
        self._shapes[name] = tuple(found.get_shape())

    @property
    def names(self) -> frozenset[str]:
        """Of all tensors."""
        return frozenset(self._files)

    def count(self, names: Sequence[str] | None = None) -> int:
        """How many numbers the named tensors hold (None: all)."""
        return sum(prod(self._shapes[name]) for name in (self._files if names is None else names))

    def refuse_unless_there(self, sources: Mapping[str, Sequence[str]]) -> None:
        """Raise BundleRefused when a tensor that `sources` names is missing."""
        missing = [name for names in sources.values() for name in names if name not in self._files]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise BundleRefused(f"the weights lack the tensor {missing[0]}{more}, which config.json calls for")

    def joined(self, names: Sequence[str], dtype: torch.dtype, device: torch.device) -> Tensor:
        """The named tensors one below the other, as a tensor of its own: [sum of first dimensions, ...].

        Raises RuntimeError when their widths differ.
        """
        shapes = [self._shapes[name] for name in names]
        out = torch.empty((sum(shape[0] for shape in shapes), *shapes[0][1:]), dtype=dtype, device=device)
        at = 0
        for name, shape in zip(names, shapes, strict=True):
            # A mapping of its own each time: what is closed leaves memory, or the files would be there beside the model.
            with safe_open(self._files[name].path, framework="pt") as opened:
                out[at : at + shape[0]].copy_(opened.get_tensor(name))
            at += shape[0]
        return out
