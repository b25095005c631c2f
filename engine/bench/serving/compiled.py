"""`python -m engine.bench.serving.compiled BUNDLE`: is torch.compile worth having on this machine?

Decodes with the packed products that the server uses, and with plain ones under torch.compile (dynamic shapes, broken
at attention, which reads the paged cache), in turn, on the same weights. Packed products are opaque to the compiler.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from types import MethodType

import torch

from engine.serving.bundle import read_bundle
from engine.serving.compute.assemble import engine_for, optimize
from engine.serving.compute.core import EngineCore
from engine.serving.loader import LoadedModel, load_model
from engine.serving.request import SamplingParams
from engine.serving.settings import ServingSettings

STEPS = 24


def steps_ms(core: EngineCore, batch: int) -> float:
    """The median milliseconds of a decoding step of `batch` sequences that begin with 64 tokens."""
    for number in range(batch):
        prompt = [5 + (number * 31 + place) % 50 for place in range(64)]
        core.add(number, prompt, SamplingParams(STEPS + 2, temperature=0.0, ignore_eos=True), arrived_at=0.0)
    took = []
    while core.has_work:
        began = time.perf_counter()
        report = core.step()
        if report.computed_tokens == batch:
            took.append(time.perf_counter() - began)
    return statistics.median(took) * 1000


def compiled(loaded: LoadedModel) -> LoadedModel:
    """The same model with its forward pass compiled and its products as they were loaded."""
    model = loaded.model
    function = torch.compile(type(model).hidden, dynamic=True)
    model.hidden = MethodType(function, model)  # type: ignore[method-assign]
    return loaded


def main(argv: list[str]) -> int:
    """Measure and print a row a batch."""
    parser = argparse.ArgumentParser(prog="engine.bench.serving.compiled", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    settings = ServingSettings(dtype=options.dtype, prefix_cache=False, max_context=256, max_batch=8)
    bundle = read_bundle(options.bundle, None)
    packed = load_model(bundle, settings)
    optimize(packed)
    cores = {"packed": engine_for(packed), "compiled": engine_for(compiled(load_model(bundle, settings)))}
    sys.stdout.write(f"{'batch':<8}{'packed ms':>12}{'compiled ms':>14}{'ratio':>8}\n")
    for batch in (1, 8):
        for core in cores.values():
            steps_ms(core, batch)
        rounds = [{name: steps_ms(core, batch) for name, core in cores.items()} for _ in range(options.rounds)]
        ours, theirs = (statistics.median(one[name] for one in rounds) for name in cores)
        ratio = statistics.median(one["compiled"] / one["packed"] for one in rounds)
        sys.stdout.write(f"{batch:<8}{ours:>12.1f}{theirs:>14.1f}{ratio:>8.2f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
