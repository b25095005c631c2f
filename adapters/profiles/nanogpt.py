"""The counters of a nanoGPT server as the tutorials write it. A track is the Service that Prometheus finds the replica by.

`nanogpt_requests_total{endpoint,status}` with status success or error, `nanogpt_request_latency_seconds{endpoint}` in the Python client's
own bounds (0.005 to 10 s), `nanogpt_tokens_generated_total`. Whatever is raised counts as an error, a caller's own mistake too.
"""

from __future__ import annotations

from adapters.profiles.profile import GPU_BY_POD, GPU_BY_POD_LACKS, Counter, Histogram, Match, Profile

_ENDPOINT = Match("endpoint", "=", "generate")

PROFILE = Profile(
    name="nanogpt",
    title="nanoGPT's server",
    source="prometheus/client_python: Histogram.DEFAULT_BUCKETS",
    where=(Match("namespace", "=", "{namespace}"),),
    track_label="service",
    requests=(Counter("nanogpt_requests_total", (_ENDPOINT,)),),
    errors=(Counter("nanogpt_requests_total", (_ENDPOINT, Match("status", "!=", "success"))),),
    slow=Histogram("nanogpt_request_latency_seconds", 1.0, (_ENDPOINT,)),
    knows_429=False,
    more={
        "tokens": "sum by ($track) (rate(nanogpt_tokens_generated_total{$where}[$window]))",
        "gpu": GPU_BY_POD,
    },
    lacks={
        "errors": "a caller's own mistake is among them; what the router could not deliver is not",
        "queue": "it has none: requests are answered one by one",
        "gpu": GPU_BY_POD_LACKS,
    },
)
