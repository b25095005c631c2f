"""vLLM's own counters, of replicas behind any router. A track is the Service that Prometheus finds the pod by: `SERVICE-stable`, … as a
ServiceMonitor labels it (`service`, `namespace`). A replica that is down, and a request that never reached one, count nothing here.

Sources: vllm-project/vllm docs/usage/metrics.md (names), vllm/v1/engine/__init__.py (finished_reason: stop, length, abort, error,
repetition), pull requests 15657 and 15894 (`http_requests_total{handler,method,status="2xx"}`, since 0.8.3: vLLM's engine has no error
counter of its own, `vllm:request_success_total` is of those that finished); `e2e_request_latency_seconds` is to the last token.
"""

from __future__ import annotations

from adapters.profiles.profile import GPU_BY_POD, GPU_BY_POD_LACKS, Counter, Histogram, Match, Profile

_ASKED = (Match("handler", "=~", "/v1/.+"), Match("method", "=", "POST"))

PROFILE = Profile(
    name="vllm",
    title="vLLM's replicas, behind any router",
    source="github.com/vllm-project/vllm docs/usage/metrics.md, pull requests 15657 and 15894",
    where=(Match("namespace", "=", "{namespace}"),),
    track_label="service",
    requests=(Counter("http_requests_total", (*_ASKED, Match("status", "!=", "4xx"))),),
    errors=(Counter("http_requests_total", (*_ASKED, Match("status", "=", "5xx"))),),
    slow=Histogram("vllm:e2e_request_latency_seconds", 1.0),
    knows_429=False,
    more={
        "tokens": "sum by ($track) (rate(vllm:generation_tokens_total{$where}[$window]))",
        "gpu": GPU_BY_POD,
        "queue": "sum by ($track) (vllm:num_requests_waiting{$where})",
    },
    lacks={
        "errors": "a stream that breaks after its 200, and what the router could not deliver, is not seen; 429 is among 4xx",
        "gpu": GPU_BY_POD_LACKS,
    },
)
