"""Envoy Gateway: Envoy's counters of the cluster that a backend is. It makes one cluster for a whole rule of an HTTPRoute, stable and
canary together, unless a backendRef of the rule has a filter: then one for each, `httproute/NAMESPACE/ROUTE/rule/N/backend/M`, M in
the order of the backendRefs. So: put a filter that changes nothing on one backendRef (a RequestHeaderModifier that removes a header
nobody sends), with stable first, canary second, baseline third, or say otherwise by `tracks`.

Sources: github.com/envoyproxy/gateway issues 7008 and 7017 (clusters by rule, by backend with a filter, their names), 6742 (no counters by
backendRef yet); envoyproxy/envoy docs/root/configuration/upstream/cluster_manager/cluster_stats.rst: `upstream_rq_<*>` counts final responses
alone (a retried one is under `retry.`), and what Envoy itself answers for a backend it cannot reach; `upstream_rq_time` in ms, of all codes.
"""

from __future__ import annotations

from adapters.profiles.profile import Counter, Histogram, Match, Profile

_RULE = "httproute/{namespace}/{service}/rule/[0-9]+/backend/"
_PROXY = "a proxy sees requests, not what a model does with them"

PROFILE = Profile(
    name="envoy-gateway",
    title="Envoy Gateway, with a filter on a backendRef",
    source="github.com/envoyproxy/gateway issues 7008, 7017, 6742; Envoy's cluster statistics",
    track_label="envoy_cluster_name",
    tracks={"stable": f"{_RULE}0", "canary": f"{_RULE}1", "baseline": f"{_RULE}2"},
    requests=(Counter("envoy_cluster_upstream_rq", (Match("envoy_response_code", "!~", "{clients_own}"),)),),
    errors=(Counter("envoy_cluster_upstream_rq", (Match("envoy_response_code", "=~", "{bad}"),)),),
    slow=Histogram("envoy_cluster_upstream_rq_time", 0.001),
    more={"queue": "sum by ($track) (envoy_cluster_upstream_rq_active{$where})"},
    lacks={
        "requests": "without a filter on a backendRef, stable and canary are one cluster and nothing tells them apart",
        "slow": "slow 4xx are among the slow ones: the histogram has no code",
        "tokens": _PROXY,
        "gpu": _PROXY,
    },
)
