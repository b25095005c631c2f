"""The compiled kernels over shapes that nobody chose: what they give is torch's, and nothing beside it is read or written.

Under AddressSanitizer (README.md of serving says how) these tests also find what a comparison of numbers cannot.
"""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine.serving.compute.native.kernels import GELU, MAX_GROUP, PLAIN, PLUS, SWISH, TIMES, Kernels, kernels
from engine.serving.models.llama import rotate

FLOATS = (torch.float32, torch.bfloat16)
ROUNDS = 40
EDGE = 64
"""Numbers that nobody may touch, before and behind what is written."""


@pytest.fixture(name="found")
def native() -> Kernels:
    found = kernels()
    if found is None:
        pytest.skip("no C compiler here, or none that makes these kernels")
    return found


def near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", [*FLOATS, torch.int8])
def test_products_of_any_shape(found: Kernels, kind: torch.dtype) -> None:
    draw = random.Random(f"product {kind}")
    torch.manual_seed(draw.randrange(1 << 30))
    for _ in range(ROUNDS):
        # Single outputs, panels cut short, the block of rows passed, and enough work for several threads.
        outputs, inputs = draw.choice((1, 2, 15, 16, 17, draw.randint(1, 300))), 2 * draw.randint(1, 150)
        shape = draw.choice(((), (draw.randint(1, 14),), (draw.randint(95, 200),), (2, draw.randint(1, 9)), (0,)))
        x, other = torch.randn(*shape, inputs), torch.randn(*shape, outputs)
        weight, bias = torch.randn(outputs, inputs) / inputs**0.5, draw.choice((None, torch.randn(outputs)))
        if kind is torch.int8:
            scale, weight = torch.rand(outputs) / 64, torch.randint(-127, 128, (outputs, inputs)).to(kind)
            product, whole = found.quantized(weight, scale, bias), weight.float() * scale[:, None]
        else:
            product, whole = found.product(weight.to(kind), bias), weight.to(kind).float()
        plain = functional.linear(x, whole, bias)
        near(product(x, PLAIN), plain)
        near(product(x, PLUS, other), plain + other)
        near(product(x, TIMES, other), plain * other)
        near(product(x, SWISH), functional.silu(plain))
        near(product(x, GELU), functional.gelu(plain))
        near(product.layout.rows(torch.tensor([outputs - 1, 0])), whole[[outputs - 1, 0]])


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention_over_any_blocks(found: Kernels, dtype: torch.dtype) -> None:
    draw = random.Random(f"attention {dtype}")
    torch.manual_seed(draw.randrange(1 << 30))
    for _ in range(ROUNDS):
        size, head = draw.choice((1, 3, 16, 33, draw.randint(1, 200))), 16 * draw.randint(1, 16)
        keys_heads, group, rows = draw.randint(1, 3), draw.randint(1, MAX_GROUP), draw.randint(1, 4)
        lengths = torch.tensor([draw.choice((1, 127, 128, 129, 256, draw.randint(1, 400))) for _ in range(rows)])
        width = -(-int(lengths.max()) // size)
        # Blocks that no row has are not numbers, and the widest row's table ends with its last block.
        tables = torch.stack([torch.randperm(width + 2)[:width] for _ in range(rows)])
        keys, values = (torch.full((width + 2, size, keys_heads, head), torch.nan, dtype=dtype) for _ in range(2))
        for table, length in zip(tables, lengths.tolist(), strict=True):
            used = table[: -(-length // size)]
            for part in (keys, values):
                part[used] = torch.randn(len(used), *part.shape[1:]).to(dtype)
        # As they come out of one product: a row's query heads, then other numbers.
        query = torch.randn(rows, keys_heads * (group + 2), head)[:, : keys_heads * group]
        heads = (keys_heads * group, keys_heads, head)
        seen = found.past(tables, lengths, size, heads, dtype).attend(query, keys, values)
        for row, length in enumerate(lengths.tolist()):
            k, v = (part[tables[row]].flatten(0, 1)[:length].transpose(0, 1).float() for part in (keys, values))
            expected = functional.scaled_dot_product_attention(query[row, :, None], k, v, enable_gqa=True)
            near(seen[row], expected.flatten())


@pytest.mark.parametrize("dtype", FLOATS)
def test_storing_any_heads_writes_their_slots_alone(found: Kernels, dtype: torch.dtype) -> None:
    draw = random.Random(f"store {dtype}")
    for _ in range(ROUNDS):
        blocks, size, heads, head = draw.randint(1, 5), draw.randint(1, 40), draw.randint(1, 5), 16 * draw.randint(1, 8)
        around = torch.full((2 * EDGE + blocks * size * heads * head,), 7.0, dtype=dtype)
        layer = around[EDGE:-EDGE].view(blocks, size, heads, head)
        slots = torch.randperm(blocks * size)[: draw.randint(1, blocks * size)]
        part = torch.randn(len(slots), heads + draw.randint(0, 3), head)[:, :heads]
        expected = around.clone()
        expected[EDGE:-EDGE].view(-1, heads, head)[slots] = part.to(dtype)
        found.store(part, slots, layer)
        assert torch.equal(around, expected)


def test_norms_and_turns_of_any_width(found: Kernels) -> None:
    draw = random.Random("norm")
    torch.manual_seed(5)
    for _ in range(ROUNDS):
        rows, every, head = draw.randint(1, 20), draw.randint(1, 9), 16 * draw.randint(1, 16)
        x, weight, table = torch.randn(rows, every, head), torch.randn(head), torch.randn(rows, 2, head)
        near(found.norm(x[:, ::2], weight, 1e-5), functional.rms_norm(x[:, ::2], (head,), weight, 1e-5))
        cos, sin = (part.unsqueeze(1) for part in table.unbind(1))
        count = draw.randint(1, every)
        expected = rotate(x, count, cos, sin)
        near(found.rotate(x, count, cos, sin), expected)


@pytest.mark.parametrize(
    "x", [torch.randn(3, 34), torch.randn(3, 30), torch.randn(3, 32).double(), torch.randn(3, 32).bfloat16()]
)
def test_what_is_not_shaped_for_a_product_is_refused_before_it_is_read(found: Kernels, x: Tensor) -> None:
    with pytest.raises(ValueError, match="float32"):
        found.product(torch.randn(8, 32))(x)
    with pytest.raises(ValueError, match="float32"):
        found.norm(x, torch.randn(32), 1e-5)


def test_what_follows_a_product_must_have_its_shape(found: Kernels) -> None:
    with pytest.raises(ValueError, match="8"):
        found.product(torch.randn(8, 32))(torch.randn(3, 32), PLUS, torch.randn(3, 7))
