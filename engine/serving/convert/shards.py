"""Writing tensors as they come, in files of a bounded size: a large model is never whole in memory."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from engine.serving.bundle import INDEX_NAME, WEIGHTS_NAME
from engine.serving.convert.source import write_json

SHARD_BYTES = 2 << 30


class ShardWriter:
    """Collects tensors and writes a file whenever they are `limit` bytes. Names and index are Hugging Face's."""

    def __init__(self, folder: Path, total_bytes: int, limit: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._limit = limit
        self._total = total_bytes
        self._held: dict[str, Tensor] = {}
        self._held_bytes = 0
        self._written: list[tuple[Path, list[str]]] = []

    def add(self, name: str, tensor: Tensor) -> None:
        """Take one more tensor, in memory of its own."""
        if self._held and self._held_bytes + tensor.nbytes > self._limit:
            self._flush()
        self._held[name] = tensor.contiguous()
        self._held_bytes += tensor.nbytes

    def close(self) -> None:
        """Write what is left, and give the files their names."""
        self._flush()
        count = len(self._written)
        if count == 1:
            self._written[0][0].rename(self._folder / WEIGHTS_NAME)
            return
        places: dict[str, str] = {}
        for number, (path, names) in enumerate(self._written, start=1):
            final = f"model-{number:05d}-of-{count:05d}.safetensors"
            path.rename(self._folder / final)
            places |= dict.fromkeys(names, final)
        write_json(self._folder / INDEX_NAME, {"metadata": {"total_size": self._total}, "weight_map": places})

    def _flush(self) -> None:
        if not self._held:
            return
        path = self._folder / f"part-{len(self._written):05d}.safetensors"
        # transformers reads no file that does not say it was written for torch.
        save_file(self._held, path, metadata={"format": "pt"})
        self._written.append((path, list(self._held)))
        self._held, self._held_bytes = {}, 0
