"""What a replica says of its load: a few of vLLM's series out of its exposition, and its settings. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_RUNNING, _WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
_KV = "vllm:kv_cache_usage_perc"
_E2E, _QUEUE = "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds"
_WANTED = (_RUNNING, _WAITING, _KV, f"{_E2E}_sum", f"{_E2E}_count", f"{_QUEUE}_sum")


@dataclass(frozen=True, slots=True)
class Reading:
    """One replica at one moment; the last three are since its start."""

    running: float
    waiting: float
    kv_usage: float
    requests: float
    e2e_s: float
    queued_s: float


def read_exposition(text: str) -> Reading | None:
    """The reading in a Prometheus text; None when it does not say how many requests it has."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in _WANTED:
            try:
                value = float(line.rpartition(" ")[2])
            except ValueError:
                continue
            # NaN is no load of nothing: a series that says it says nothing.
            if math.isfinite(value):
                found.setdefault(name, []).append(value)
    if _RUNNING not in found:
        return None
    kv = found.get(_KV, [0.0])
    return Reading(
        running=sum(found[_RUNNING]),
        waiting=sum(found.get(_WAITING, [0.0])),
        kv_usage=max(kv),
        requests=sum(found.get(f"{_E2E}_count", [0.0])),
        e2e_s=sum(found.get(f"{_E2E}_sum", [0.0])),
        queued_s=sum(found.get(f"{_QUEUE}_sum", [0.0])),
    )


def concurrency_of(handshake: Mapping[str, Any]) -> int:
    """Requests that the replica of this handshake takes at once; 1 when it does not say."""
    serving = handshake.get("serving")
    for name in ("max_batch", "max_num_seqs", "max_inflight"):
        value = serving.get(name) if isinstance(serving, Mapping) else None
        if isinstance(value, int) and value > 0:
            return value
    return 1
