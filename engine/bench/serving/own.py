"""Our engine in a process of its own, behind lines of JSON: `python -P -m engine.bench.serving.own SETTINGS`.

SETTINGS is JSON: bundle, threads, serving. The engine is set up as the model server does it, and stepped as its loop
does; there is no HTTP. Orders and answers are one line each:

    {"op": "generate", "prompts": [[id, …], …], "new": 32}  ->  {"seconds": …, "tokens": …}
    {"op": "score", "windows": [[id, …], …]}                ->  {"nll": …, "count": …, "best": [[id, …], …]}
    {"op": "bandwidth"}                                     ->  {"bytes_per_s": …}
    {"op": "about"}                                         ->  {"device": "cpu", "parameters": …}
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from engine.serving.request import SamplingParams
from engine.serving.startup import ServerPayload, prepare, settle_threads

_WARM_NEW = 2


class OwnEngine:
    """One engine core, and what a benchmark asks of it."""

    def __init__(self, payload: ServerPayload) -> None:
        self._payload = payload
        self.core, self.card = prepare(payload, "")
        self._number = 0

    def about(self) -> dict[str, Any]:
        """What was loaded, and where."""
        return {"device": self.card.device, "parameters": self.card.parameters}

    def generate(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        """All prompts at once, greedy, `new` tokens each; seconds until the last one is there."""
        params = SamplingParams(max_tokens=new, temperature=0.0, ignore_eos=True)
        counts: dict[int, int] = {}
        texts: dict[int, str] = {}
        began = time.perf_counter()
        for prompt in prompts:
            self._number += 1
            texts[self._number] = ""
            self.core.add(self._number, prompt, params, arrived_at=time.monotonic())
        while self.core.has_work:
            for update in self.core.step().updates:
                if update.error is not None:
                    raise RuntimeError(f"the engine failed a request of the bench: {update.error}")
                counts[update.number] = update.completion_tokens
                texts[update.number] += update.text
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": sum(counts.values()), "texts": list(texts.values())}

    def score(self, windows: list[list[int]]) -> dict[str, Any]:
        """The model's own negative log likelihood of each window's next tokens, in nats, and its best guesses."""
        import torch
        from torch.nn import functional

        from engine.bench.serving.causal import causal_attention
        from engine.serving.bundle import read_bundle
        from engine.serving.compute.assemble import optimize
        from engine.serving.loader import load_model
        from engine.serving.settings import serving_settings

        bundle = read_bundle(self._payload.bundle, None)
        loaded = load_model(bundle, serving_settings(bundle.serving, self._payload.serving))
        optimize(loaded)
        nll, best = 0.0, []
        with torch.inference_mode():
            for window in windows:
                tokens = torch.tensor(window, device=loaded.device)
                positions = torch.arange(len(window), device=loaded.device)
                hidden = loaded.model.hidden(tokens, positions, causal_attention)
                logits = loaded.model.head(hidden)[:-1].float()
                nll += float(functional.cross_entropy(logits, tokens[1:], reduction="sum"))
                best.append(logits.argmax(-1).tolist())
        return {"nll": nll, "count": sum(len(window) - 1 for window in windows), "best": best}

    def bandwidth(self) -> dict[str, Any]:
        """Bytes a second at which this device reads memory: the best of a few sums over an array that no cache holds."""
        import torch

        device = torch.device(self.card.device)
        numbers = torch.ones(1 << 28 if device.type == "cuda" else 1 << 27, dtype=torch.float32, device=device)
        best = 0.0
        for _ in range(8):
            if device.type == "cuda":
                torch.cuda.synchronize()
            began = time.perf_counter()
            numbers.sum().item()
            best = max(best, numbers.numel() * 4 / (time.perf_counter() - began))
        return {"bytes_per_s": best}


def main(argv: list[str]) -> None:
    """Answer orders until the input ends."""
    payload = ServerPayload.model_validate_json(argv[0])
    settle_threads(payload)
    engine = OwnEngine(payload)
    engine.generate([[0, 0, 0]], _WARM_NEW)
    for line in sys.stdin:
        order = json.loads(line)
        sys.stdout.write(json.dumps(getattr(engine, order.pop("op"))(**order)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
