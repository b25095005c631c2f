"""What a real server fills in: an object read back is never what was sent."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from itertools import count
from typing import Any

from kube.resources import Resource
from kube.values import Obj, at

_addresses = count(10)


def _fill(target: Obj, **values: Any) -> None:
    for key, value in values.items():
        if target.get(key) is None:
            target[key] = value


def _probe(probe: Obj) -> None:
    _fill(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
    if "httpGet" in probe:
        _fill(probe["httpGet"], path="/", scheme="HTTP")


def _container(container: Obj) -> None:
    image = container.get("image", "")
    tag = image.rsplit("/", 1)[-1]
    latest = "@" not in image and (":" not in tag or tag.endswith(":latest"))
    _fill(
        container,
        imagePullPolicy="Always" if latest else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in container.get("ports") or []:
        _fill(port, protocol="TCP")
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if container.get(name):
            _probe(container[name])
    for kind in ("limits", "requests"):
        for key, value in (container["resources"].get(kind) or {}).items():
            container["resources"][kind][key] = str(value)
    if limits := container["resources"].get("limits"):
        container["resources"]["requests"] = {**limits, **container["resources"].get("requests", {})}


def _pod_spec(spec: Obj) -> None:
    _fill(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    for name in ("containers", "initContainers"):
        for container in spec.get(name) or []:
            _container(container)
    for volume in spec.get("volumes") or []:
        for source in ("configMap", "secret"):
            if source in volume:
                _fill(volume[source], defaultMode=420)


def _template(obj: Obj) -> None:
    template = at(obj, "spec", "template")
    if isinstance(template, dict):
        template.setdefault("metadata", {})
        _pod_spec(template.setdefault("spec", {}))


def _deployment(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600, strategy={})
    _fill(spec["strategy"], type="RollingUpdate")
    if spec["strategy"]["type"] == "RollingUpdate":
        _fill(spec["strategy"], rollingUpdate={})
        _fill(spec["strategy"]["rollingUpdate"], maxSurge="25%", maxUnavailable="25%")
    _template(obj)


def _replica_set(obj: Obj) -> None:
    _fill(obj.setdefault("spec", {}), replicas=1)
    _template(obj)


def _job(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, parallelism=1, completions=1, backoffLimit=6, completionMode="NonIndexed", suspend=False)
    _fill(spec, manualSelector=False, podReplacementPolicy="TerminatingOrFailed")
    _template(obj)
    if "selector" not in spec and "uid" in obj["metadata"]:
        uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
        old = {"controller-uid": uid, "job-name": name}
        labels = {**old, **{f"batch.kubernetes.io/{key}": value for key, value in old.items()}}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
        for meta in (spec.setdefault("template", {}).setdefault("metadata", {}), obj["metadata"]):
            meta["labels"] = {**(meta.get("labels") or {}), **labels}


def _service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    _fill(spec, type="ClusterIP", sessionAffinity="None")
    if spec["type"] != "ExternalName":
        if not spec.get("clusterIP"):
            spec["clusterIP"] = f"10.96.{next(_addresses) // 250}.{next(_addresses) % 250}"
        _fill(spec, clusterIPs=[spec["clusterIP"]], internalTrafficPolicy="Cluster")
        _fill(spec, ipFamilies=["IPv4"], ipFamilyPolicy="SingleStack")
    for port in spec.get("ports") or []:
        _fill(port, protocol="TCP", targetPort=port.get("port"))


def _secret(obj: Obj) -> None:
    _fill(obj, type="Opaque")
    for key, value in (obj.pop("stringData", None) or {}).items():
        obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()


def _namespace(obj: Obj) -> None:
    obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = obj["metadata"].get("name", "")
    obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    obj.setdefault("status", {}).setdefault("phase", "Active")


def _backend(backend: Obj) -> None:
    _fill(backend, group="", kind="Service")


def _route(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    for parent in spec.get("parentRefs") or []:
        _fill(parent, group="gateway.networking.k8s.io", kind="Gateway")
    for rule in spec.get("rules") or []:
        _fill(rule, matches=[{"path": {}}])
        for match in rule["matches"]:
            _fill(match, path={})
            _fill(match["path"], type="PathPrefix", value="/")
            for header in match.get("headers") or []:
                _fill(header, type="Exact")
        for backend in rule.get("backendRefs") or []:
            _backend(backend)
            _fill(backend, weight=1)
        for each in rule.get("filters") or []:
            if "requestMirror" in each:
                _backend(each["requestMirror"]["backendRef"])


def _gateway(obj: Obj) -> None:
    for listener in at(obj, "spec", "listeners", default=[]):
        _fill(listener, allowedRoutes={"namespaces": {"from": "Same"}})


def _autoscaler(obj: Obj) -> None:
    _fill(obj.setdefault("spec", {}), minReplicas=1)
    _fill(
        obj["spec"],
        metrics=[
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ],
    )


_BY_KIND: dict[str, Callable[[Obj], None]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "Job": _job,
    "Pod": lambda obj: _pod_spec(obj.setdefault("spec", {})),
    "Service": _service,
    "Secret": _secret,
    "Namespace": _namespace,
    "HTTPRoute": _route,
    "Gateway": _gateway,
    "HorizontalPodAutoscaler": _autoscaler,
}


def set_defaults(which: Resource, obj: Obj) -> None:
    """Fill in what a real server would, in place."""
    if not which.custom and "spec" in obj:
        obj["spec"] = _without_nulls(obj["spec"])
    if which.kind in _BY_KIND:
        _BY_KIND[which.kind](obj)


def _without_nulls(value: Any) -> Any:
    """A null in a typed object is the field left out: clients in Go send `creationTimestamp: null` in templates."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def new_uid() -> str:
    """A uid as the server makes them."""
    return str(uuid.uuid4())
