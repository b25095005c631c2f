"""The compiled kernels as functions of tensors, tried before they are trusted. CPU only; everything in float32 but weights and cache."""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engine.serving.compute.native.build import built
from engine.serving.compute.native.layout import KINDS, Layout, lay_out

log = logging.getLogger("airboss.kernels")
PLAIN, PLUS, TIMES, SWISH, GELU = range(5)
"""What follows a product, as products.c numbers it."""
MAX_GROUP, MAX_HEAD, LANES = 16, 256, 16
"""Its limits: query heads that share a key head, the width of a head, and what widths are multiples of."""


class _Product(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("inputs", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("kind", ctypes.c_int32),
    )


class _Past(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("tables", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "width", "size", "heads", "key_heads", "head")),
        ("kind", ctypes.c_int32),
    )


class Product:
    """One matrix product with packed weights."""

    def __init__(self, library: ctypes.CDLL, layout: Layout, bias: Tensor | None) -> None:
        self.layout = layout
        self._bias = bias.detach().float().contiguous() if bias is not None else None
        self._run = library.product
        self._about = _Product(
            layout.weight.data_ptr(), _pointer(layout.scale), _pointer(self._bias), layout.inputs, layout.outputs,
            KINDS[layout.weight.dtype],
        )  # fmt: skip
        self._address = ctypes.addressof(self._about)

    def __call__(self, x: Tensor, after: int = PLAIN, other: Tensor | None = None) -> Tensor:
        """x [..., in], other [..., out] or none, float32 -> [..., out], with what follows it done. Raises ValueError."""
        x = _float32(x, self.layout.inputs).contiguous()
        out = x.new_empty((*x.shape[:-1], self.layout.outputs))
        if other is not None:
            other = _float32(other, self.layout.outputs).contiguous()
            if other.shape != out.shape:
                raise ValueError(f"{tuple(other.shape)} does not follow a product of {tuple(out.shape)}")
        rows = x.numel() // self.layout.inputs
        self._run(
            self._address, x.data_ptr(), rows, _pointer(other), out.data_ptr(), after, torch.get_num_threads()
        )  # fmt: skip
        return out


class Past:
    """What single new tokens of several sequences see of a paged cache."""

    def __init__(
        self, library: ctypes.CDLL, tables: Tensor, lengths: Tensor, size: int, heads: tuple[int, int, int], kind: int
    ) -> None:
        self._kept = tables, lengths
        self._run = library.attend
        n_head, n_kv_head, head_dim = heads
        self._about = _Past(
            None, None, tables.data_ptr(), lengths.data_ptr(), *tables.shape, size, n_head, n_kv_head, head_dim, kind
        )
        self._address = ctypes.addressof(self._about)
        self._width = n_head * head_dim

    def attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """query float32 [rows, n_head, D]; keys, values: one layer of the cache -> float32 [rows, n_head * D]."""
        if query.stride()[1:] != (query.shape[2], 1):
            query = query.contiguous()
        out = query.new_empty((query.shape[0], self._width))
        self._about.keys, self._about.values = keys.data_ptr(), values.data_ptr()
        self._run(self._address, query.data_ptr(), query.stride(0), out.data_ptr(), torch.get_num_threads())
        return out


class Kernels:
    """The library of one process."""

    def __init__(self, path: Path) -> None:
        self._library = library = ctypes.CDLL(str(path))
        pointer, count, small = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        library.product.argtypes = (pointer, pointer, count, pointer, pointer, small, small)
        library.norm.argtypes = (pointer, pointer, ctypes.c_float, count, count, pointer)
        library.attend.argtypes = (pointer, pointer, count, pointer, small)
        library.rotate.argtypes = (pointer, pointer, pointer, count, count, count, count, count)
        library.store.argtypes = (pointer, count, count, count, pointer, pointer, small)
        for function in (library.product, library.norm, library.attend, library.rotate, library.store):
            function.restype = None

    def product(self, weight: Tensor, bias: Tensor | None = None) -> Product:
        """The product of `weight` [out, in]: float32, bfloat16, or int8 with its scales (see lay_out)."""
        return Product(self._library, lay_out(weight), bias)

    def quantized(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None) -> Product:
        """The product of an int8 `weight` [out, in] times `scale` float32 [out]."""
        return Product(self._library, lay_out(weight, scale), bias)

    def norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """The root mean square norm of x [..., width], float32, times weight float32 [width]. Raises ValueError."""
        width = len(weight)
        x = _float32(x, width).contiguous()
        out = torch.empty_like(x)
        self._library.norm(x.data_ptr(), weight.data_ptr(), eps, x.numel() // width, width, out.data_ptr())
        return out

    def rotate(self, x: Tensor, heads: int, cos: Tensor, sin: Tensor) -> Tensor:
        """models.llama.rotate, in place where x float32 [T, H, D] is contiguous."""
        x = x.contiguous()
        rows, every, head = x.shape
        self._library.rotate(x.data_ptr(), cos.data_ptr(), sin.data_ptr(), cos.stride(0), rows, every, heads, head)
        return x[:, :heads]

    def store(self, part: Tensor, slots: Tensor, layer: Tensor) -> None:
        """Put part float32 [T, heads, D] at `slots` int64 [T] of a layer of the cache, rounded as it rounds."""
        rows, heads, head = part.shape
        if part.stride()[1:] != (head, 1):
            part = part.contiguous()
        self._library.store(
            part.data_ptr(), part.stride(0), rows, heads * head, slots.data_ptr(), layer.data_ptr(), KINDS[layer.dtype]
        )

    def past(self, tables: Tensor, lengths: Tensor, size: int, heads: tuple[int, int, int], dtype: torch.dtype) -> Past:
        """tables int64 [rows, blocks], lengths int64 [rows]; heads: of queries, of keys, and their width."""
        return Past(self._library, tables, lengths, size, heads, KINDS[dtype])


def _float32(x: Tensor, width: int) -> Tensor:
    """`x`, if it is [..., width] in float32: torch would raise for another, C would read past its end. Raises ValueError."""
    if x.dtype is not torch.float32 or x.shape[-1] != width:
        raise ValueError(f"the kernel takes float32 [..., {width}], not {x.dtype} {tuple(x.shape)}")
    return x


def _pointer(tensor: Tensor | None) -> int | None:
    return tensor.data_ptr() if tensor is not None else None


@cache
def kernels() -> Kernels | None:
    """This process' kernels; None where they could not be built or do not compute what torch computes."""
    path = built()
    if path is None:
        return None
    try:
        found = Kernels(path)
    except (OSError, AttributeError) as error:
        log.warning("no compiled kernels, torch computes: %s", error)
        path.unlink(missing_ok=True)  # torn, perhaps: the next start makes it anew
        return None
    if not _computes_rightly(found):
        log.warning("no compiled kernels, torch computes: what %s computes is not what torch computes", path)
        return None
    return found


@torch.inference_mode()
def _computes_rightly(found: Kernels) -> bool:
    """A product of each kind, with every number of rows that has code of its own; the norm, the turn; both caches."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    pairs = []
    for rows in (1, 2, 3, 4, 5, 6, 13):
        weight, x, other = draw(40, 32) / 6, draw(rows, 32), draw(rows, 40)
        for dtype in (torch.float32, torch.bfloat16):
            product, plain = found.product(weight.to(dtype)), x @ weight.to(dtype).float().T
            pairs += [
                (product(x), plain),
                (product(x, PLUS, other), plain + other),
                (product(x, TIMES, other), plain * other),
                (product(x, SWISH), torch.nn.functional.silu(plain)),
                (product(x, GELU), torch.nn.functional.gelu(plain)),
            ]
        whole = (weight * 40).round().to(torch.int8)
        pairs.append((found.quantized(whole, torch.full((40,), 0.025))(x), x @ (whole.float() * 0.025).T))
    x, scale = draw(3, 48), draw(48)
    pairs.append((found.norm(x, scale, 1e-5), torch.nn.functional.rms_norm(x, (48,), scale, 1e-5)))
    turned, cos, sin = draw(3, 2, 32), draw(3, 1, 32), draw(3, 1, 32)
    expected = turned * cos + turned.roll(16, -1) * sin
    pairs.append((found.rotate(turned, 2, cos, sin), expected))
    query, tables = draw(2, 6, 32), torch.randperm(12, generator=generator)[None].repeat(2, 1)
    lengths, slots = torch.tensor([170, 5]), torch.randperm(12 * 16, generator=generator)
    for dtype in (torch.float32, torch.bfloat16):
        keys, values = (torch.zeros(12, 16, 2, 32, dtype=dtype) for _ in range(2))
        for part, put in ((keys, draw(len(slots), 2, 32)), (values, draw(len(slots), 2, 32))):
            found.store(put, slots, part)
            pairs.append((part.flatten(0, 1)[slots].float(), put.to(dtype).float()))
        seen = found.past(tables, lengths, 16, (6, 2, 32), dtype).attend(query, keys, values)
        for row, length in enumerate(lengths.tolist()):
            k, v = (part[tables[row]].flatten(0, 1)[:length].transpose(0, 1).float() for part in (keys, values))
            said = torch.nn.functional.scaled_dot_product_attention(query[row, :, None], k, v, enable_gqa=True)
            pairs.append((seen[row], said.flatten()))
    return all(torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4) for ours, theirs in pairs)
