"""Whose an object is when Git has it: Argo CD's or Flux's, by what they write on it; and whether they would take back what we write.

Argo CD takes back every field that Git says otherwise, unless its Application ignores that field's differences. Flux does at each
reconciliation, unless the object or its Kustomization says that it must not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.kubernetes import objects
from adapters.kubernetes.cluster import Cluster
from state.words import AirbossError

Object = Mapping[str, Any]
ARGO_TRACKING, ARGO_INSTANCE = "argocd.argoproj.io/tracking-id", "argocd.argoproj.io/instance"
FLUX = ("kustomize.toolkit.fluxcd.io", "helm.toolkit.fluxcd.io")
MANAGER = "airboss"
RESPECTS = "RespectIgnoreDifferences=true"


@dataclass(frozen=True, slots=True)
class Owner:
    """What keeps an object as Git has it: `tool` "Argo CD" or "Flux", and its Application, Kustomization or HelmRelease."""

    tool: str
    kind: str
    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.tool} ({self.kind} {f'{self.namespace}/' if self.namespace else ''}{self.name})"


@dataclass(frozen=True, slots=True)
class Written:
    """A field of a kind that we write: where it is for a JSON pointer, and for jq where it is in a list."""

    group: str
    kind: str
    pointer: str
    jq: str = ""

    def line(self) -> str:
        """As an entry of `ignoreDifferences`."""
        where = f'jqPathExpressions: ["{self.jq}"]' if self.jq else f"jsonPointers: [{self.pointer}]"
        return f'  - {{ group: "{self.group}", kind: {self.kind}, {where} }}'


REPLICAS = Written("apps", "Deployment", "/spec/replicas")
SELECTOR = Written("", "Service", "/spec/selector")
WEIGHTS = Written("gateway.networking.k8s.io", "HTTPRoute", "/spec/rules", ".spec.rules[].backendRefs[].weight")


def owner_of(item: Object) -> Owner | None:
    """Who keeps the object as Git has it; None for nobody that writes on what it keeps."""
    meta = item["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    if tracked := notes.get(ARGO_TRACKING):
        # NAME:GROUP/KIND:NAMESPACE/OBJECT. A copy carries the original's: it is nobody's.
        app, _, rest = str(tracked).partition(":")
        if rest.rpartition("/")[2] == meta["name"]:
            namespace, _, named = app.rpartition("_")
            return Owner("Argo CD", "Application", named, namespace)
    if name := labels.get(ARGO_INSTANCE):
        return Owner("Argo CD", "Application", str(name))
    for group in FLUX:
        if name := labels.get(f"{group}/name"):
            kind = "Kustomization" if group.startswith("kustomize") else "HelmRelease"
            return Owner("Flux", kind, str(name), str(labels.get(f"{group}/namespace", "")))
    return None


def let_go(item: Object) -> bool:
    """Flux is told, on the object itself, to leave it as it is."""
    notes = item["metadata"].get("annotations") or {}
    kept = notes.get(f"{FLUX[0]}/reconcile") == "disabled" or notes.get(f"{FLUX[1]}/driftDetection") == "disabled"
    return kept or notes.get(f"{FLUX[0]}/ssa") in ("IfNotPresent", "Ignore")


def is_ignored(application: Object, written: Written, name: str, namespace: str) -> bool:
    """The Application takes nothing back of that field of the object: it does not sync by itself, or ignores the difference, also as it syncs."""
    spec = application.get("spec", {})
    policy = spec.get("syncPolicy") or {}
    if not policy.get("automated"):
        return True
    if RESPECTS not in (policy.get("syncOptions") or ()):
        return False
    for entry in spec.get("ignoreDifferences") or ():
        if entry.get("kind") != written.kind or str(entry.get("group") or "") != written.group:
            continue
        if entry.get("name", name) != name or entry.get("namespace", namespace) != namespace:
            continue
        pointers = [str(p) for p in entry.get("jsonPointers") or ()]
        if any(written.pointer == p or written.pointer.startswith(f"{p}/") for p in pointers):
            return True
        jq = [str(p).replace(" ", "") for p in entry.get("jqPathExpressions") or ()]
        if MANAGER in (entry.get("managedFieldsManagers") or ()) or (written.jq and written.jq in jq):
            return True
    return False


async def reverted(cluster: Cluster, service: str, route: str) -> tuple[tuple[str, Written], ...]:
    """Of what a rollout of the service writes, what Git's tool would take back: who says so, and the field.

    With `gitops = "agreed"` nothing is looked at. What cannot be read counts as taken back: it is found out before, not by an outage.
    """
    if cluster.target.gitops == "agreed":
        return ()
    found: list[tuple[str, Written]] = []
    for written, item in await _touched(cluster, service, route):
        owner = owner_of(item)
        if owner is None:
            continue
        why = await _why(cluster, owner, item, written)
        if why:
            found.append((f"{written.kind} {item['metadata']['name']} is kept by {owner}, {why}", written))
    return tuple(found)


async def _touched(cluster: Cluster, service: str, route: str) -> list[tuple[Written, Object]]:
    """The objects that are there and that a rollout of the service would write."""
    there, _ = await cluster.client.list(
        cluster.path("deployments"), f"{objects.ours(cluster.env)},{objects.NAME}={service}"
    )
    found: list[tuple[Written, Object]] = [(REPLICAS, one) for one in there]
    if cluster.target.traffic == "gateway":
        return found
    tracks = ("entry", "preview") if cluster.target.traffic == "service" else ("stable", "canary")
    for track in tracks:
        if one := await cluster.client.get(cluster.path("services", objects.track_service(service, track))):
            found.append((SELECTOR, one))
    if cluster.target.traffic == "httproute" and (one := await cluster.client.get(cluster.path("httproutes", route))):
        found.append((WEIGHTS, one))
    return found


async def _why(cluster: Cluster, owner: Owner, item: Object, written: Written) -> str:
    """Why the owner would take our write back; "" when it would not."""
    if owner.tool == "Flux":
        if let_go(item):
            return ""
        return f"which writes {written.pointer} anew at each reconciliation"
    namespace = owner.namespace or cluster.target.argocd_namespace
    path = f"/apis/argoproj.io/v1alpha1/namespaces/{namespace}/applications/{owner.name}"
    try:
        application = await cluster.client.get(path)
    except AirbossError as error:
        return f"whose Application cannot be read ({error.message})"
    if application is None:
        return f"whose Application is not in the namespace {namespace}"
    if is_ignored(application, written, str(item["metadata"]["name"]), cluster.namespace):
        return ""
    return f"which heals {written.pointer} by itself"


def ignore_lines(fields: tuple[Written, ...]) -> str:
    """What Argo CD's Application must say so that these stay ours."""
    lines = "\n".join(written.line() for written in dict.fromkeys(fields))
    return f"ignoreDifferences:\n{lines}\nsyncPolicy: {{ syncOptions: [{RESPECTS}] }}"


def take_out(name: str, namespace: str) -> str:
    """The patch, for a kustomization.yaml in Git or by hand in the manifest, that stops a release which was rolled back."""
    wanted = f"kind: Deployment, apiVersion: apps/v1, metadata: {{ name: {name}, namespace: {namespace} }}, spec: {{ replicas: 0 }}"
    return f'patches: [{{ patch: "{{ {wanted} }}" }}]'
