"""The benchmarks there are: a name, the module that measures it, one line about it. Strings only, no import."""

from __future__ import annotations

BENCHES: dict[str, tuple[str, str]] = {
    "gateway": (
        "engine.bench.gateway.bench",
        "one gateway worker beside nginx, HAProxy, a bare aiohttp proxy and LiteLLM",
    ),
    "judge": (
        "engine.bench.judge.bench",
        "our judge beside the seed's rule, z-tests and Mann-Whitney: false alarms, power, time to a verdict",
    ),
    "console": (
        "engine.bench.console.bench",
        "the console in a pty, as over SSH: start beside the import of textual, key to paint, bytes, memory",
    ),
    "serving": (
        "engine.bench.serving.bench",
        "our model server beside the seed's, transformers and vLLM, with the same weights",
    ),
    "rollback": (
        "engine.bench.rollback.bench",
        "from the key on the rollback panel to the last request to the bad release, beside nginx and HAProxy",
    ),
    "soak": (
        "engine.bench.soak.bench",
        "gateway and model server under mixed load for half an hour: flat memory, nothing kept, no wrong answer",
    ),
    "lineage": (
        "engine.bench.lineage.bench",
        "where a release is from and what a snapshot is live in, on a store with a million edges",
    ),
    "pipeline": (
        "engine.bench.pipeline.bench",
        "what a pipeline's stage costs besides its command, beside `dvc repro` on the same dvc.yaml",
    ),
    "strategies": (
        "engine.bench.strategies.bench",
        "what users notice of a move to another release, by each strategy over 10,000 requests",
    ),
}
"""Each module has `add_options(parser)` and `measure(options) -> Report`; a new benchmark is one module and one row."""
