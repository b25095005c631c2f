"""Every resource the server keeps, and the discovery documents made of the table."""

from __future__ import annotations

from dataclasses import dataclass

from kube.values import Obj

VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
VERSION = {
    "major": "1",
    "minor": "36",
    "gitVersion": "v1.36.1",
    "gitCommit": "0000000000000000000000000000000000000000",
    "gitTreeState": "clean",
    "buildDate": "2026-05-12T10:00:00Z",
    "goVersion": "go1.26.2",
    "compiler": "gc",
    "platform": "linux/amd64",
}


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object, as the paths, the messages and the writes need it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    scale: bool = False
    generation: bool = False
    custom: bool = False
    """Defined by a CRD: no strategic merge, lists atomic unless the schema says otherwise."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """`deployments.apps`, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _custom(group: str, version: str, plural: str, kind: str, **more: bool) -> Resource:
    return Resource(group, version, plural, kind, **{"status": True, "generation": True, "custom": True, **more})


RESOURCES = (
    Resource("", "v1", "namespaces", "Namespace", namespaced=False, status=True),
    Resource("", "v1", "nodes", "Node", namespaced=False, status=True),
    Resource("", "v1", "configmaps", "ConfigMap"),
    Resource("", "v1", "secrets", "Secret"),
    Resource("", "v1", "services", "Service", status=True),
    Resource("", "v1", "serviceaccounts", "ServiceAccount"),
    Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", status=True),
    Resource("", "v1", "resourcequotas", "ResourceQuota", status=True),
    Resource("", "v1", "pods", "Pod", status=True, generation=True),
    Resource("", "v1", "events", "Event"),
    Resource("apps", "v1", "deployments", "Deployment", status=True, scale=True, generation=True),
    Resource("apps", "v1", "replicasets", "ReplicaSet", status=True, scale=True, generation=True),
    Resource("apps", "v1", "statefulsets", "StatefulSet", status=True, scale=True, generation=True),
    Resource("batch", "v1", "jobs", "Job", status=True, generation=True),
    Resource("batch", "v1", "cronjobs", "CronJob", status=True, generation=True),
    Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", generation=True),
    Resource("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", status=True),
    Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", status=True, generation=True),
    Resource("coordination.k8s.io", "v1", "leases", "Lease"),
    Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False),
    Resource("authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview", namespaced=False),
    Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False),
    Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
    _custom("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False),
    _custom("gateway.networking.k8s.io", "v1", "gateways", "Gateway"),
    _custom("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute"),
    _custom("argoproj.io", "v1alpha1", "rollouts", "Rollout", scale=True),
    _custom("argoproj.io", "v1alpha1", "analysistemplates", "AnalysisTemplate", status=False),
    _custom("argoproj.io", "v1alpha1", "analysisruns", "AnalysisRun", status=False),
    _custom("argoproj.io", "v1alpha1", "workflows", "Workflow", status=False),
    _custom("argoproj.io", "v1alpha1", "applications", "Application", status=False),
    _custom("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject"),
    _custom("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor"),
    _custom("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
)
_SHORT = {
    "deployments": "deploy",
    "replicasets": "rs",
    "pods": "po",
    "services": "svc",
    "configmaps": "cm",
    "namespaces": "ns",
}
REVIEWS = ("selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews")
_BY_PATH = {(each.group, each.version, each.plural): each for each in RESOURCES}
_BY_KIND = {(each.api_version, each.kind): each for each in RESOURCES}


def resource(plural: str, group: str | None = None) -> Resource:
    """The resource of a plural name, as `deployments` or `rollouts`."""
    return next(each for each in RESOURCES if each.plural == plural and group in (None, each.group))


def resource_at(group: str, version: str, plural: str) -> Resource | None:
    """The resource that a path names."""
    return _BY_PATH.get((group, version, plural))


def resource_of(obj: Obj) -> Resource | None:
    """The resource that an object's apiVersion and kind name."""
    return _BY_KIND.get((obj.get("apiVersion", ""), obj.get("kind", "")))


def _rows(each: Resource) -> list[Obj]:
    verbs = ["create"] if each.plural in REVIEWS else VERBS
    base = {"singularName": each.kind.lower(), "namespaced": each.namespaced, "kind": each.kind}
    short = {"shortNames": [_SHORT[each.plural]]} if each.plural in _SHORT else {}
    rows: list[Obj] = [{"name": each.plural, **base, **short, "verbs": verbs}]
    some = ["get", "patch", "update"]
    if each.status:
        rows.append({"name": f"{each.plural}/status", **base, "singularName": "", "verbs": some})
    if each.scale:
        scale = {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        rows.append({"name": f"{each.plural}/scale", **base, "singularName": "", **scale, "verbs": some})
    if each.plural == "pods":
        rows += [
            {"name": "pods/log", **base, "singularName": "", "verbs": ["get"]},
            {"name": "pods/eviction", **base, "singularName": "", "kind": "Eviction", "verbs": ["create"]},
        ]
    return rows


def group_document(group: str, version: str, served: tuple[Resource, ...]) -> Obj | None:
    """The APIResourceList of one group and version, None where it is not served."""
    found = [each for each in served if (each.group, each.version) == (group, version)]
    if not found:
        return None
    rows = [row for each in found for row in _rows(each)]
    named = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": named, "resources": rows}


def groups_document(served: tuple[Resource, ...]) -> Obj:
    """The APIGroupList of /apis."""
    groups: dict[str, str] = {each.group: each.version for each in served if each.group}
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, groups[name]) for name in groups]}


def one_group(group: str, served: tuple[Resource, ...]) -> Obj | None:
    """The APIGroup of /apis/GROUP, None where it is not served."""
    version = next((each.version for each in served if each.group == group), None)
    return None if version is None else {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}


def _group(name: str, version: str) -> Obj:
    one = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [one], "preferredVersion": one}
