"""The objects that we apply, as functions of what is wanted. Pure. Nothing here is read back."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from adapters.ports import ReplicaSetSpec
from state.kubernetes_config import Pods

Object = dict[str, Any]

NAME, MANAGED_BY = "app.kubernetes.io/name", "app.kubernetes.io/managed-by"
ENV, RELEASE, ROLE, HASH = "airboss.dev/env", "airboss.dev/release", "airboss.dev/role", "airboss.dev/pod-hash"
AUTHOR, DIGEST, ROLLOUT = "airboss.dev/author", "airboss.dev/artifact-sha256", "airboss.dev/rollout-id"
MOUNTED_AT = "/etc/airboss"
PRE_STOP_S = 15
"""kube-proxy and gateways go on sending for some seconds to a pod that is being ended."""
READY_EVERY_S = 5


def ours(env: str) -> str:
    """The label selector for all that belongs to an environment."""
    return f"{MANAGED_BY}=airboss,{ENV}={env}"


def hash_of(service: str, env: str, release_id: str, digest: str, role: str = "") -> str:
    """Eight hex digits that tell one replica set's pods from all others'."""
    return hashlib.sha256("\0".join((service, env, release_id, digest, role)).encode()).hexdigest()[:8]


def spec_hash(spec: ReplicaSetSpec) -> str:
    """`hash_of` a set."""
    return hash_of(spec.service, spec.env, spec.release_id, spec.digest, spec.role)


def name_of(spec: ReplicaSetSpec) -> str:
    """The set's Deployment and ConfigMap: `SERVICE-HASH`."""
    return f"{spec.service[:54].rstrip('-')}-{spec_hash(spec)}"


def track_service(service: str, track: str) -> str:
    """The Service a track is reached by."""
    return f"{service[:52].rstrip('-')}-{track}"


def labels_of(spec: ReplicaSetSpec) -> dict[str, str]:
    """On everything that is a set's. Which track it plays changes, and stands in Services alone."""
    role = {ROLE: spec.role} if spec.role else {}
    return {
        NAME: spec.service, MANAGED_BY: "airboss", ENV: spec.env, RELEASE: spec.release_id, HASH: spec_hash(spec), **role
    }  # fmt: skip


def config_map(spec: ReplicaSetSpec, namespace: str, author: str) -> Object:
    """What the release is and how it is to be served. Immutable: another release has another name."""
    release = {"release": spec.release_id, "digest": spec.digest, "service": spec.service, "env": spec.env}
    return {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": _metadata(name_of(spec), namespace, labels_of(spec), author, spec.digest),
        "immutable": True,
        "data": {
            "release.json": json.dumps(release, sort_keys=True),
            "serving.json": json.dumps(dict(spec.serving), sort_keys=True, default=str),
        },
    }  # fmt: skip


def deployment(spec: ReplicaSetSpec, pods: Pods, namespace: str, author: str) -> Object:
    """The set as a Deployment. Only its number of replicas changes once it is there."""
    labels = labels_of(spec)
    drain_s = PRE_STOP_S + math.ceil(pods.drain)
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": drain_s + 5,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {HASH: labels[HASH]}},
            }
        ],
        "containers": [container(spec, pods)],
        "volumes": [{"name": "airboss", "configMap": {"name": name_of(spec)}}],
        **({"serviceAccountName": pods.service_account} if pods.service_account else {}),
    }  # fmt: skip
    return {
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": _metadata(name_of(spec), namespace, labels, author, spec.digest),
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": math.ceil(pods.start_timeout) + 60,
            "selector": {"matchLabels": {NAME: spec.service, HASH: labels[HASH]}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": labels, "annotations": {DIGEST: spec.digest}},
                "spec": merged(pod, pods.pod),
            },
        },
    }  # fmt: skip


def container(spec: ReplicaSetSpec, pods: Pods) -> Object:
    """The server. It is not asked for traffic before it says that it is well; that it generates, the engine asks itself."""
    fields = {"service": spec.service, "env": spec.env, "release": spec.release_id, "digest": spec.digest}
    gpu = {pods.gpu_resource: str(pods.gpu)} if pods.gpu else {}
    well = {"httpGet": {"path": pods.health, "port": "http"}}
    made = {
        "name": "server",
        "image": pods.image,
        "command": [text.format(**fields) for text in pods.command],
        "args": [text.format(**fields) for text in pods.args],
        "env": [{"name": name, "value": value.format(**fields)} for name, value in sorted(pods.env.items())],
        "ports": [{"name": "http", "containerPort": pods.port}],
        "resources": {"requests": {**pods.requests, **gpu}, "limits": {**pods.limits, **gpu}},
        "startupProbe": {**well, "periodSeconds": READY_EVERY_S,
                         "failureThreshold": max(1, math.ceil(pods.start_timeout / READY_EVERY_S))},
        "readinessProbe": {**well, "periodSeconds": READY_EVERY_S, "timeoutSeconds": 3, "failureThreshold": 2},
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "airboss", "mountPath": MOUNTED_AT, "readOnly": True}],
    }  # fmt: skip
    return merged({name: value for name, value in made.items() if value != []}, pods.container)


def disruption_budget(spec: ReplicaSetSpec, namespace: str, author: str) -> Object:
    """Drains of nodes take one replica of a set at a time."""
    labels = labels_of(spec)
    return {
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": _metadata(name_of(spec), namespace, labels, author, spec.digest),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {NAME: spec.service, HASH: labels[HASH]}}},
    }  # fmt: skip


def service(
    name: str, of: str, env: str, selector: Mapping[str, str], port: int, namespace: str, author: str
) -> Object:
    """A Service of `of`'s that leads to the pods `selector` matches."""
    return {
        "apiVersion": "v1", "kind": "Service",
        "metadata": _metadata(name, namespace, {NAME: of, MANAGED_BY: "airboss", ENV: env}, author),
        "spec": {
            "selector": dict(selector),
            "ports": [{"name": "http", "port": port, "protocol": "TCP", "targetPort": "http"}],
        },
    }  # fmt: skip


def http_route(
    name: str,
    of: str,
    env: str,
    rules: list[Object],
    gateway: str,
    hostnames: tuple[str, ...],
    namespace: str,
    author: str,
) -> Object:
    """A new HTTPRoute, taken by `gateway` ("NAME", "NAMESPACE/NAME" or "NAMESPACE/NAME/LISTENER")."""
    parts = gateway.split("/")
    parent: Object = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": parts[min(1, len(parts) - 1)]}
    if len(parts) > 1:
        parent["namespace"] = parts[0]
    if len(parts) > 2:
        parent["sectionName"] = parts[2]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": _metadata(name, namespace, {NAME: of, MANAGED_BY: "airboss", ENV: env}, author),
        "spec": {"parentRefs": [parent], **({"hostnames": list(hostnames)} if hostnames else {}), "rules": rules},
    }  # fmt: skip


def merged(made: Mapping[str, Any], given: Mapping[str, Any]) -> Object:
    """`made` with what a configuration adds: tables are merged, lists are lengthened (by name where entries have one)."""
    out = dict(made)
    for key, value in given.items():
        known = out.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            out[key] = merged(known, value)
        elif isinstance(known, list) and isinstance(value, list | tuple):
            named = {item.get("name") for item in value if isinstance(item, Mapping)}
            kept = [item for item in known if not (isinstance(item, dict) and item.get("name") in named - {None})]
            out[key] = [*kept, *value]
        else:
            out[key] = value
    return out


def _metadata(name: str, namespace: str, labels: Mapping[str, str], author: str, digest: str = "") -> Object:
    digests = {DIGEST: digest} if digest else {}
    return {
        "name": name, "namespace": namespace, "labels": dict(labels), "annotations": {AUTHOR: author, **digests}
    }  # fmt: skip
