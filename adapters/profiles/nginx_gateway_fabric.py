"""NGINX Gateway Fabric with NGINX Open Source: all requests of the gateway are one number. Nothing can be judged by it.

Source: docs.nginx.com, NGINX Gateway Fabric, "Prometheus metrics": Open Source has `nginx_http_requests_total` and connections, without a
backend and without a code; codes and upstream peers are NGINX Plus's, by address, and times are averages.
"""

from __future__ import annotations

from adapters.profiles.profile import Profile

_ONE_NUMBER = "its open-source metrics count the whole gateway: no backend, no code, no time"

PROFILE = Profile(
    name="nginx-gateway-fabric",
    title="NGINX Gateway Fabric (NGINX Open Source)",
    source="docs.nginx.com/nginx-gateway-fabric/monitoring/prometheus",
    track_label="job",
    cannot=f'{_ONE_NUMBER}; judge by the replicas behind it (profile "vllm", "triton", "opentelemetry") or by a mesh ("istio")',
    probes=("nginx_http_requests_total",),
    knows_429=False,
    lacks=dict.fromkeys(("requests", "errors", "slow", "tokens", "queue", "gpu"), _ONE_NUMBER),
)
