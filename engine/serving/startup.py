"""From a spec's payload to an engine that can step. Runs in the engine's thread; torch is imported here, not before."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.local.child import ChildSpec, process_start_ticks
from engine.serving.backend.release import serving_of
from engine.serving.bundle import read_bundle
from engine.serving.front.fault import refuse_unless_allowed
from engine.serving.loop import ModelCard
from engine.serving.settings import serving_settings
from state.words import UsageError

if TYPE_CHECKING:
    from engine.serving.compute.core import EngineCore


_MALLOC = ((-8, 1), (-3, 32 << 20), (-1, 256 << 20))
"""mallopt(3): one arena; up to 32 MiB from the heap; up to 256 MiB kept free at its top."""
_SPINS = "10000"
"""Turns of libgomp's waiting loop: longer than the pause between two products of a step, far shorter than a time slice."""


class ServerPayload(BaseModel):
    """The payload of a model server's spec."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    bundle: Path
    service: str = ""
    env: str = ""
    release_id: str = ""
    serving: dict[str, Any] = Field(default_factory=dict)
    """Overrides of the release's serving.json, field by field."""
    threads: int = Field(default=0, ge=0)
    """Threads that torch computes with; 0: see thread_count."""
    allow_faults: bool = False
    jobs_dir: Path | None = None
    """Where jobs are kept so that a restart loses none; None: in memory alone."""


def read_payload(spec: ChildSpec) -> ServerPayload:
    """The checked payload. Raises UsageError."""
    try:
        return ServerPayload.model_validate(spec.payload)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"the spec of model server {spec.spawn_id} is wrong: payload.{where}: {first['msg']}"
        ) from error


def leave(code: int) -> int:
    """The exit code for a process that ends; where the engine's thread cannot, the process ends here.

    A thread inside torch would hold up the interpreter's end, or crash it. What had to be written is written by then.
    """
    if any(thread.name == "engine" and thread.is_alive() for thread in threading.enumerate()):
        sys.stdout.flush()
        os._exit(code)
    return code


def thread_count(asked: int, *, is_exclusive: bool = False) -> int:
    """`asked`, or when 0: all cores but one, which the front and its neighbours need; 1 on one or two cores."""
    cores = len(os.sched_getaffinity(0))
    return asked or (cores if is_exclusive else cores - 1 if cores > 2 else 1)


def settle_threads(payload: ServerPayload) -> int:
    """Say how many threads torch will compute with, and how they wait. Must run before torch is imported.

    Returns the number. Raises BundleRefused when the release's serving.json cannot be read.
    """
    serving = {**serving_of(payload.bundle), **payload.serving}
    is_exclusive = serving.get("exclusive_cpu") is True
    _settle_malloc()
    threads = thread_count(payload.threads, is_exclusive=is_exclusive)
    calm_openmp(threads, spins=is_exclusive)
    return threads


def _settle_malloc() -> None:
    """Have all threads allocate from one pool, and keep what a step frees for the next step.

    A server of SmolLM2 kept 1,200 MB with a pool for each thread, and 830 with one, for the same load. And by itself glibc
    gives large temporaries back at once: touching fresh pages again was a third of the time of a prompt.
    """
    with contextlib.suppress(OSError, AttributeError):  # no glibc: it keeps its own ways
        libc = ctypes.CDLL(None)
        for option, value in _MALLOC:
            libc.mallopt(option, value)


def calm_openmp(threads: int, *, spins: bool = False) -> None:
    """Make OpenMP's threads sleep instead of spin, or with `spins`, spin for some tens of microseconds first.

    Spinning threads on few cores that others use wait for each other: a step of 4 ms was measured at 310. On cores that
    nobody else uses, waking a thread for each of hundreds of products takes longer than a second thread saves: 150
    products of one row took 29 ms with two sleeping threads, 28 with one thread, 12 with two that spin a moment.
    """
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if spins:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
    else:
        os.environ.pop("GOMP_SPINCOUNT", None)


def prepare(payload: ServerPayload, digest: str) -> tuple[EngineCore, ModelCard]:
    """Verify, load, and set up the engine.

    The bundle is verified before the expensive import, so that a bad one is refused at once.
    Raises BundleRefused, ConfigError.
    """
    bundle = read_bundle(payload.bundle, digest or None)
    settings = serving_settings(bundle.serving, payload.serving)
    release_id = payload.release_id or bundle.release_id
    refuse_unless_allowed(settings.fault, payload.allow_faults, release_id)

    import torch

    from engine.serving.compute.assemble import engine_for, optimize, served_shape
    from engine.serving.compute.file_pages import give_back_file_pages
    from engine.serving.loader import load_model

    torch.set_num_threads(thread_count(payload.threads, is_exclusive=settings.exclusive_cpu))
    loaded = load_model(bundle, settings)
    parameters = loaded.model.parameter_count()
    optimize(loaded)
    core = engine_for(loaded)
    card = ModelCard(
        release_id=release_id,
        digest=bundle.digest,
        tokenizer=loaded.tokenizer,
        context=served_shape(loaded).context,
        parameters=parameters,
        device=str(loaded.device),
        settings=settings,
        cache_blocks=core.blocks.count,
        block_size=core.blocks.size,
    )
    # What is loaded now stays for life: the collector need not look at torch's modules again.
    gc.collect()
    gc.freeze()
    give_back_file_pages()
    return core, card


def seconds_since_spawn() -> float:
    """How long this process has existed, interpreter start included."""
    ticks = process_start_ticks(os.getpid())
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
