"""The benchmarks there are: a name, the module that measures it, one line about it. Strings only, no import."""

from __future__ import annotations

BENCHES: dict[str, tuple[str, str]] = {
    "gateway": (
        "engine.bench.gateway.bench",
        "one gateway worker beside nginx, HAProxy, a bare aiohttp proxy and LiteLLM",
    ),
    "serving": (
        "engine.bench.serving.bench",
        "our model server beside the seed's, transformers and vLLM, with the same weights",
    ),
    "soak": (
        "engine.bench.soak.bench",
        "gateway and model server under mixed load for half an hour: flat memory, nothing kept, no wrong answer",
    ),
}
"""Each module has `add_options(parser)` and `measure(options) -> Report`; a new benchmark is one module and one row."""
