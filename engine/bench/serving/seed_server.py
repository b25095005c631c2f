"""The seed's own server, as printed: `python -m engine.bench.serving.seed_server DIR PORT THREADS`.

nanoGPT's model and `generate`, without a cache, behind an `async` handler that computes in the event loop: one request
at a time, /health silent meanwhile. Starlette in FastAPI's place (which would only add to each request), the
vocabulary as JSON in place of a pickle; nothing else was changed for the better or the worse.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import uvicorn
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from torch import Tensor, nn
from torch.nn import functional


class _Norm(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(width, 3 * width, bias=bias)
        self.c_proj = nn.Linear(width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(y.transpose(1, 2).contiguous().view(batch, length, width))
        return out


class _Mlp(nn.Module):
    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width, bias=bias)
        self.c_proj = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(functional.gelu(self.c_fc(x)))
        return out


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1, self.attn = _Norm(width, bias), _Attention(width, heads, bias)
        self.ln_2, self.mlp = _Norm(width, bias), _Mlp(width, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class NanoGpt(nn.Module):
    """nanoGPT's GPT, in evaluation; weights by nanoGPT's names."""

    def __init__(
        self, n_layer: int, n_head: int, n_embd: int, block_size: int, vocab_size: int, bias: bool = True
    ) -> None:
        super().__init__()
        self.block_size = block_size
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList(_Block(n_embd, n_head, bias) for _ in range(n_layer)),
                "ln_f": _Norm(n_embd, bias),
            }
        )

    def forward(self, idx: Tensor) -> Tensor:
        """idx int64 [B,T] -> logits [B,1,V] after the last token."""
        parts = self.transformer
        x = parts["wte"](idx) + parts["wpe"](torch.arange(idx.shape[1], device=idx.device))
        for block in parts["h"]:  # type: ignore[attr-defined]
            x = block(x)
        return functional.linear(parts["ln_f"](x[:, [-1], :]), parts["wte"].weight)  # type: ignore[arg-type]

    @torch.no_grad()
    def generate(self, idx: Tensor, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Tensor:
        """Every token anew from the whole text so far."""
        for _ in range(max_new_tokens):
            cropped = idx if idx.shape[1] <= self.block_size else idx[:, -self.block_size :]
            logits = self(cropped)[:, -1, :] / temperature
            if top_k is not None:
                best, _ = torch.topk(logits, min(top_k, logits.shape[-1]))
                logits[logits < best[:, [-1]]] = -float("inf")
            drawn = torch.multinomial(functional.softmax(logits, dim=-1), num_samples=1)
            idx = torch.cat((idx, drawn), dim=1)
        return idx


class GenerateRequest(BaseModel):
    """The seed's request."""

    prompt: str
    max_tokens: int = 100
    temperature: float = 0.8
    top_k: int = 200


class GenerateResponse(BaseModel):
    """The seed's answer."""

    text: str
    tokens_generated: int


def app(root: Path) -> Starlette:
    """The seed's application over `ckpt.pt` and `meta.json` in `root`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = torch.load(root / "ckpt.pt", map_location=device, weights_only=True)
    model = NanoGpt(**checkpoint["model_args"])
    model.load_state_dict(checkpoint["model"])
    model.eval().to(device)
    chars: list[str] = json.loads((root / "meta.json").read_text(encoding="utf-8"))
    stoi = {char: index for index, char in enumerate(chars)}

    async def generate(request: Request) -> JSONResponse:
        asked = GenerateRequest.model_validate(await request.json())
        try:
            ids = torch.tensor([[stoi[char] for char in asked.prompt]], dtype=torch.long, device=device)
            output = model.generate(ids, asked.max_tokens, asked.temperature, asked.top_k)
        except Exception as error:  # as printed: whatever it is, a 500
            return JSONResponse({"detail": str(error)}, 500)
        text = "".join(chars[index] for index in output[0].tolist())
        answer = GenerateResponse(text=text, tokens_generated=len(output[0]) - len(ids[0]))
        return JSONResponse(answer.model_dump())

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "healthy", "model_loaded": True})

    return Starlette(routes=[Route("/generate", generate, methods=["POST"]), Route("/health", health)])


def main(argv: list[str]) -> None:
    """Serve until killed."""
    root, port, threads = Path(argv[0]), int(argv[1]), int(argv[2])
    torch.set_num_threads(threads)
    # uvicorn's type for an application does not know its own lifespan protocol's any.
    application: Any = app(root)
    uvicorn.run(application, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
