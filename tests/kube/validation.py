"""The refusals of a real server that a client of deployments, services, routes and jobs can run into."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from kube.errors import Cause, bad_request, invalid
from kube.resources import Resource
from kube.selectors import matches
from kube.values import Obj, at

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_SUBDOMAIN_TEXT = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_VALUE_TEXT = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
Causes = list[Cause]


def _wrong(field: str, value: Any, why: str) -> Cause:
    told = value if isinstance(value, int) else json.dumps(value, separators=(",", ":"))
    return Cause("FieldValueInvalid", field, f"Invalid value: {told}: {why}")


def _required(field: str, why: str = "") -> Cause:
    return Cause("FieldValueRequired", field, f"Required value: {why}" if why else "Required value")


def _forbidden(field: str, why: str) -> Cause:
    return Cause("FieldValueForbidden", field, f"Forbidden: {why}")


def _metadata(which: Resource, meta: Obj) -> Causes:
    name = meta.get("name", "")
    found: Causes = []
    if not name:
        found.append(_required("metadata.name", "name or generateName is required"))
    elif which.kind in ("Service", "Namespace") and (not _LABEL.fullmatch(name) or len(name) > 63):
        found.append(
            _wrong("metadata.name", name, "a DNS-1035 label must consist of lower case alphanumeric characters or '-'")
        )
    elif not _SUBDOMAIN.fullmatch(name) or len(name) > 253:
        found.append(_wrong("metadata.name", name, _SUBDOMAIN_TEXT))
    return found + _labels("metadata.labels", meta.get("labels") or {})


def _labels(field: str, labels: Obj) -> Causes:
    found: Causes = []
    for value in labels.values():
        if not isinstance(value, str):
            raise bad_request(
                f"json: cannot unmarshal {type(value).__name__} into Go struct field ObjectMeta.{field} of type string"
            )
        if len(value) > 63:
            found.append(_wrong(field, value, "must be no more than 63 bytes"))
        elif not _VALUE.fullmatch(value):
            found.append(_wrong(field, value, _VALUE_TEXT))
    return found


def _pod_spec(field: str, spec: Obj) -> Causes:
    found: Causes = []
    if not spec.get("containers"):
        found.append(_required(f"{field}.containers"))
    for n, container in enumerate(spec.get("containers") or []):
        for key in ("name", "image"):
            if not container.get(key):
                found.append(_required(f"{field}.containers[{n}].{key}"))
        for m, port in enumerate(container.get("ports") or []):
            number = port.get("containerPort", 0)
            if not 0 < number < 65536:
                found.append(
                    _wrong(
                        f"{field}.containers[{n}].ports[{m}].containerPort",
                        number,
                        "must be between 1 and 65535, inclusive",
                    )
                )
    return found


def _template(obj: Obj) -> Causes:
    template, selector = at(obj, "spec", "template", default={}), at(obj, "spec", "selector")
    labels = at(template, "metadata", "labels", default={})
    found = _labels("spec.template.metadata.labels", labels)
    if not selector:
        found.append(_required("spec.selector"))
    elif not matches(selector, labels):
        found.append(_wrong("spec.template.metadata.labels", labels, "`selector` does not match template `labels`"))
    return found + _pod_spec("spec.template.spec", template.get("spec") or {})


def _count(obj: Obj, *path: str) -> Causes:
    value = at(obj, *path)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        kind = "string" if isinstance(value, str) else "number"
        field = f"{obj['kind']}Spec.{'.'.join(path)}"
        raise bad_request(
            f'{obj["kind"]} in version "{obj["apiVersion"].split("/")[-1]}" cannot be handled as a {obj["kind"]}: '
            f"json: cannot unmarshal {kind} into Go struct field {field} of type int32"
        )
    if value is not None and value < 0:
        return [_wrong(".".join(path), value, "must be greater than or equal to 0")]
    return []


def _deployment(obj: Obj, old: Obj | None) -> Causes:
    spec = obj["spec"]
    found = _count(obj, "spec", "replicas") + _template(obj)
    if old and old["spec"].get("selector") != spec.get("selector"):
        found.append(_wrong("spec.selector", spec.get("selector"), "field is immutable"))
    rolling = at(spec, "strategy", "rollingUpdate", default={})
    if rolling and {str(rolling.get("maxSurge")), str(rolling.get("maxUnavailable"))} <= {"0", "0%"}:
        why = "may not be 0 when `maxSurge` is 0"
        found.append(_wrong("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], why))
    if at(spec, "strategy", "type") == "Recreate" and rolling:
        found.append(
            _forbidden("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
        )
    if spec.get("progressDeadlineSeconds", 600) <= spec.get("minReadySeconds", 0):
        found.append(
            _wrong(
                "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be greater than minReadySeconds"
            )
        )
    return found


def _replica_set(obj: Obj, old: Obj | None) -> Causes:
    found = _count(obj, "spec", "replicas") + _template(obj)
    if old and old["spec"].get("selector") != obj["spec"].get("selector"):
        found.append(_wrong("spec.selector", obj["spec"].get("selector"), "field is immutable"))
    return found


def _job(obj: Obj, old: Obj | None) -> Causes:
    found = _count(obj, "spec", "backoffLimit") + _template(obj)
    policy = at(obj, "spec", "template", "spec", "restartPolicy")
    if policy not in ("OnFailure", "Never"):
        why = 'supported values: "OnFailure", "Never"'
        found.append(
            Cause("FieldValueNotSupported", "spec.template.spec.restartPolicy", f'Unsupported value: "{policy}": {why}')
        )
    if old and old["spec"]["template"] != obj["spec"]["template"]:
        found.append(_wrong("spec.template", obj["spec"]["template"], "field is immutable"))
    return found


def _pod(obj: Obj, old: Obj | None) -> Causes:
    return _pod_spec("spec", obj.get("spec") or {})


def _config(obj: Obj, old: Obj | None) -> Causes:
    found: Causes = []
    for key, value in (obj.get("data") or {}).items():
        if not isinstance(value, str):
            raise bad_request(
                f"json: cannot unmarshal {type(value).__name__} into Go struct field {obj['kind']}.data.{key} of type string"
            )
    if old and old.get("immutable"):
        if not obj.get("immutable"):
            found.append(_forbidden("immutable", "field is immutable when `immutable` is set"))
        found += [
            _forbidden(field, "field is immutable when `immutable` is set")
            for field in ("data", "binaryData")
            if old.get(field) != obj.get(field)
        ]
    return found


def _service(obj: Obj, old: Obj | None) -> Causes:
    spec, found = obj["spec"], []
    if not spec.get("ports") and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        found.append(_required("spec.ports"))
    for n, port in enumerate(spec.get("ports") or []):
        if not 0 < port.get("port", 0) < 65536:
            found.append(_wrong(f"spec.ports[{n}].port", port.get("port", 0), "must be between 1 and 65535, inclusive"))
        if len(spec["ports"]) > 1 and not port.get("name"):
            found.append(_required(f"spec.ports[{n}].name"))
    if old and old["spec"].get("clusterIP") != spec.get("clusterIP"):
        found.append(_wrong("spec.clusterIPs[0]", spec.get("clusterIP"), "may not change once set"))
    return found


def _route(obj: Obj, old: Obj | None) -> Causes:
    found: Causes = []
    names = [rule["name"] for rule in obj["spec"].get("rules") or [] if "name" in rule]
    if len(set(names)) < len(names):
        found.append(_wrong("spec.rules", "array", "Rule name must be unique within the route"))
    for n, rule in enumerate(obj["spec"].get("rules") or []):
        for m, backend in enumerate(rule.get("backendRefs") or []):
            field = f"spec.rules[{n}].backendRefs[{m}]"
            if not backend.get("name"):
                found.append(_required(f"{field}.name"))
            if not 0 <= backend["weight"] <= 1_000_000:
                bound = "greater than or equal to 0" if backend["weight"] < 0 else "less than or equal to 1e+06"
                found.append(_wrong(f"{field}.weight", backend["weight"], f"{field}.weight in body should be {bound}"))
            if backend["kind"] == "Service" and not backend.get("port"):
                found.append(_wrong(field, "object", "Must have port for Service reference"))
    return found


def _autoscaler(obj: Obj, old: Obj | None) -> Causes:
    spec, found = obj["spec"], []
    if spec.get("maxReplicas", 0) < 1:
        found.append(_wrong("spec.maxReplicas", spec.get("maxReplicas", 0), "must be greater than 0"))
    elif spec["maxReplicas"] < spec["minReplicas"]:
        found.append(_wrong("spec.maxReplicas", spec["maxReplicas"], "must be greater than or equal to `minReplicas`"))
    return found


def _budget(obj: Obj, old: Obj | None) -> Causes:
    spec = obj.get("spec") or {}
    if "minAvailable" in spec and "maxUnavailable" in spec:
        return [_wrong("spec", spec, "minAvailable and maxUnavailable cannot be both set")]
    return []


_BY_KIND: dict[str, Callable[[Obj, Obj | None], Causes]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "Job": _job,
    "Pod": _pod,
    "ConfigMap": _config,
    "Secret": _config,
    "Service": _service,
    "HTTPRoute": _route,
    "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget,
}


def check(which: Resource, obj: Obj, old: Obj | None) -> None:
    """Raise 422 with every cause, or 400 for a value of the wrong type."""
    causes = _metadata(which, obj["metadata"])
    if which.kind in _BY_KIND:
        causes += _BY_KIND[which.kind](obj, old)
    if causes:
        raise invalid(which, obj["metadata"].get("name", ""), causes)
