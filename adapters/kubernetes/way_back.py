"""What a kept rollback plan says of a cluster: enough to go back there without store, configuration or engine. Pure.

`adapters.kubernetes.emergency` does it; the kubectl lines are for a hand, where that program cannot reach the cluster.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.kubernetes import http_route, objects
from adapters.kubernetes.http_route import Split
from adapters.kubernetes.selectors import ENTRY
from adapters.ports import ReplicaSetSpec
from state.config import Config
from state.kubernetes_config import Pods, Target
from state.words import OperationFailed, Track

Object = dict[str, Any]


def kept_way(target: Target, pods: Pods, author: str, spec: ReplicaSetSpec, rules: Sequence[Object] | None) -> Object:
    """The plan's `cluster`: where, whose pods, and the lines. `rules`: those of the service's HTTPRoute as last seen."""
    return {
        "target": target.model_dump(mode="json", exclude_defaults=True),
        "traffic": target.traffic,
        "pods": pods.model_dump(mode="json", exclude_defaults=True),
        "author": author,
        "spec": {
            "release_id": spec.release_id, "digest": spec.digest, "bundle_path": str(spec.bundle_path),
            "replicas": spec.replicas, "serving": dict(spec.serving),
        },
        "kubectl": kubectl_lines(target, pods, spec, rules),
    }  # fmt: skip


def read_way(way: Mapping[str, Any], service: str, env: str) -> tuple[Config, Target, ReplicaSetSpec]:
    """The way as the adapter takes it. Raises KeyError, ValueError or TypeError on what is none."""
    # The lease may be a dead engine's for a while yet: a person who goes back now does not wait for its end.
    target = Target(**{**way["target"], "lease": False})
    config = Config.model_validate(
        {
            "service": {service: {"kubernetes": way["pods"]}},
            "environment": {env: {"targets": [way["target"]]}},
        }
    )
    said = way["spec"]
    spec = ReplicaSetSpec(
        service, env, said["release_id"], said["digest"], Path(said["bundle_path"]), int(said["replicas"]), said["serving"]
    )  # fmt: skip
    return config, target, spec


def kubectl_lines(
    target: Target, pods: Pods, spec: ReplicaSetSpec, rules: Sequence[Object] | None
) -> list[str]:  # fmt: skip
    """The same by hand, in the order in which it is done: capacity, then traffic."""
    kubectl = ["kubectl"]
    kubectl += ["--kubeconfig", target.kubeconfig] if target.kubeconfig else []
    kubectl += ["--context", target.context] if target.context else []
    kubectl += ["-n", target.namespace or ""]
    lines = [[*kubectl, "scale", "deployment", objects.name_of(spec), f"--replicas={spec.replicas}"]]
    if target.traffic != "gateway":
        led = objects.track_service(spec.service, ENTRY if target.traffic == "service" else Track.STABLE)
        selector = json.dumps({"spec": {"selector": {objects.HASH: objects.spec_hash(spec)}}})
        lines.append([*kubectl, "patch", "service", led, "--type=merge", "-p", selector])
    if target.traffic == "httproute" and rules and (patch := _all_to_stable(rules, spec.service, pods.port)):
        route = target.route or spec.service
        lines.append([*kubectl, "patch", "httproute", route, "--type=json", "-p", json.dumps(patch)])
    return [shlex.join(line) for line in lines]


def _all_to_stable(rules: Sequence[Object], service: str, port: int) -> list[Object]:
    """The JSON patch that gives stable all of the service's traffic, for rules that are still what was seen.

    It tests names, or the rules as a whole, and no version: it must hold hours after it was written down.
    """
    try:
        wanted = http_route.rules_of(rules, service, port, Split({Track.STABLE: 100}), may_add=False)
    except OperationFailed:
        return []
    seen = {"metadata": {"resourceVersion": ""}, "spec": {"rules": list(rules)}}
    operations = http_route.patch_of(seen, wanted)[1:]
    if any(one["path"] == "/spec/rules" for one in operations):
        return [{"op": "test", "path": "/spec/rules", "value": list(rules)}, *operations]
    return operations
