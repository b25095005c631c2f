"""Whether a model fits into memory, asked before it is loaded; and if not, what would."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from state.words import OperationFailed

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_CGROUP = Path("/sys/fs/cgroup")
_ROUND = 256
"""A proposed context is a multiple of this."""


class DoesNotFit(OperationFailed):
    """The weights and the smallest useful cache are more than the memory there is."""

    code = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs, in numbers rather than bytes: how many weights, and values in the cache for a token."""

    weights: int
    cache_per_token: int
    context: int
    """The longest sequence that shall be served."""

    def bytes(self, dtype: str, context: int) -> int:
        """Weights and the cache of one sequence of `context` tokens."""
        return (self.weights + self.cache_per_token * context) * _BYTES[dtype]

    def contexts(self, dtype: str, available: int) -> int:
        """How many whole contexts fit beside the weights."""
        left = available - self.weights * _BYTES[dtype]
        return max(0, left // (self.cache_per_token * self.context * _BYTES[dtype]))


def refuse_unless_fits(need: Need, dtype: str, available: int, where: str) -> None:
    """Raise DoesNotFit when the weights and one context's cache are over `available` bytes, naming what fits."""
    if need.bytes(dtype, need.context) <= available:
        return
    weights = need.weights * _BYTES[dtype]
    raise DoesNotFit(
        f"the model does not fit: {need.weights:,} weights in {dtype} need {_gib(weights)} and a context of "
        f"{need.context:,} tokens {_gib(need.bytes(dtype, need.context) - weights)} of cache, but {_gib(available)} are "
        f"free on {where}",
        hint=_what_fits(need, dtype, available),
    )


def _what_fits(need: Need, asked: str, available: int) -> str:
    """The nearest settings that fit: the asked dtype with a shorter context, then a smaller dtype."""
    ways = []
    for dtype in dict.fromkeys((asked, "bfloat16")):
        if _BYTES[dtype] > _BYTES[asked]:
            continue
        if contexts := need.contexts(dtype, available):
            ways.append(f"dtype {dtype} with max_batch {contexts} at the whole context")
            continue
        room = available - need.weights * _BYTES[dtype]
        tokens = room // (need.cache_per_token * _BYTES[dtype]) // _ROUND * _ROUND if room > 0 else 0
        if tokens > 0:
            ways.append(f"dtype {dtype} with max_context {tokens}")
    if ways:
        return "what would fit: " + ", or ".join(ways)
    smallest = need.bytes("bfloat16", min(need.context, _ROUND))
    return f"nothing of it fits: it takes {_gib(smallest)} in bfloat16 with the shortest context; free memory, or serve a smaller model"


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def available_on_cpu() -> int:
    """Bytes that this process can still take: the machine's, or what a container's limit leaves."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_cgroup_headroom()])


def _cgroup_headroom(root: Path = _CGROUP) -> Iterable[int]:
    """What the control group (version 2) still allows, its reclaimable file cache counted as free; nothing if unlimited."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (root / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return []
    if limit == "max":
        return []
    return [max(0, int(limit) - used + int(stat.get("inactive_file", 0)))]
