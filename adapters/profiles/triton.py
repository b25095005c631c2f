"""Triton's counters of the model that has the service's name. A track is the Service that Prometheus finds the server by, or a version of
the model: `track_label = "version"`, `tracks = { stable = "1", canary = "2" }`.

Source: triton-inference-server/server docs/user_guide/metrics.md: failures by `reason` (REJECTED: timed out in the scheduler, CANCELED,
BACKEND, OTHER); an ensemble counts its own and its parts', so one model is named. Latency is a counter (a mean) or a summary; the one
histogram is of the first response, of decoupled models, with `--metrics-config histogram_latencies=true` (100, 500, 2000, 5000 ms).
Not every refusal is counted: github.com/triton-inference-server/tensorrtllm_backend issue 582.
"""

from __future__ import annotations

from adapters.profiles.profile import GPU_BY_POD, GPU_BY_POD_LACKS, Counter, Histogram, Match, Profile

_SUCCESS = Counter("nv_inference_request_success")
_FAILURE = Counter("nv_inference_request_failure", (Match("reason", "!=", "CANCELED"),))

PROFILE = Profile(
    name="triton",
    title="Triton Inference Server",
    source="github.com/triton-inference-server/server docs/user_guide/metrics.md",
    where=(Match("namespace", "=", "{namespace}"), Match("model", "=", "{service}")),
    track_label="service",
    requests=(_SUCCESS, _FAILURE),
    errors=(_FAILURE,),
    slow=Histogram("nv_inference_first_response_histogram_ms", 0.001),
    knows_429=False,
    more={
        "gpu": GPU_BY_POD,
        "queue": "sum by ($track) (nv_inference_pending_request_count{$where})",
    },
    lacks={
        "errors": "a body that is not understood, and what the router could not deliver, is not counted; nor are HTTP codes",
        "slow": "the first response of decoupled models, and only with --metrics-config histogram_latencies=true",
        "tokens": "the TensorRT-LLM and vLLM backends count by names of their own",
        "gpu": GPU_BY_POD_LACKS,
    },
)
