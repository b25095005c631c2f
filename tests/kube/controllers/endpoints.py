"""Service to EndpointSlices: who answers for a service, and whether it is ready, serving or on its way out."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from kube.controllers.common import PODS, Controller, is_ending, is_ready, owned, owner_reference
from kube.controllers.pods import Pods
from kube.resources import resource
from kube.selectors import has_labels
from kube.values import Obj, at, safe_name

SERVICES, SLICES = resource("services"), resource("endpointslices")


class Endpoints(Controller):
    """The endpointslice controller."""

    scripts: Pods
    held = False
    """True: slices stay as they are, as where a controller lags."""

    def reconcile(self) -> None:
        """Bring the slices of every service to its pods of now."""
        for service in self.store.all(SERVICES):
            if at(service, "spec", "selector") and not self.held:
                self._reconcile(service)

    def _reconcile(self, service: Obj) -> None:
        namespace, name = service["metadata"]["namespace"], service["metadata"]["name"]
        pods = [
            pod
            for pod in self.store.all(PODS, namespace)
            if has_labels(pod, service["spec"]["selector"]) and at(pod, "status", "podIP")
        ]
        pods = [pod for pod in pods if at(pod, "status", "phase") not in ("Succeeded", "Failed")]
        groups: dict[str, tuple[list[Obj], list[Obj]]] = defaultdict(lambda: ([], []))
        for pod in pods:
            ports = [self._port(port, pod) for port in service["spec"].get("ports") or []]
            group = groups[repr(ports)]
            group[0][:] = ports
            group[1].append(_endpoint(pod, bool(service["spec"].get("publishNotReadyAddresses"))))
        wanted = list(groups.values()) or [([], [])]
        slices = owned(self.store, SLICES, service)
        for n, (ports, endpoints) in enumerate(wanted):
            body = {"addressType": "IPv4", "ports": ports or None, "endpoints": endpoints}
            if n < len(slices):
                self.writes.change(SLICES, slices[n], {**slices[n], **body}, "kube-controller-manager")
            else:
                labels = {
                    "kubernetes.io/service-name": name,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                }
                labels = {**at(service, "metadata", "labels", default={}), **labels}
                meta = {
                    "name": f"{name}-{safe_name()}",
                    "generateName": f"{name}-",
                    "labels": labels,
                    "ownerReferences": [owner_reference(service)],
                }
                self.writes.create(SLICES, namespace, {"metadata": meta, **body})
        for extra in slices[len(wanted) :]:
            self.writes.delete(SLICES, extra, {})

    def _port(self, port: Obj, pod: Obj) -> Obj:
        backing = self.scripts.address_of(pod)
        number: Any = port["targetPort"]
        if backing:
            number = backing[1]
        elif isinstance(number, str):
            named = [
                each for c in pod["spec"]["containers"] for each in c.get("ports", []) if each.get("name") == number
            ]
            number = named[0]["containerPort"] if named else None
        return {"name": port.get("name", ""), "port": number, "protocol": port["protocol"]}


def _endpoint(pod: Obj, always: bool) -> Obj:
    serving, ending = is_ready(pod) or always, is_ending(pod)
    return {
        "addresses": [pod["status"]["podIP"]],
        "conditions": {"ready": always or (serving and not ending), "serving": serving, "terminating": ending},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {
            "kind": "Pod",
            "namespace": pod["metadata"]["namespace"],
            "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"],
        },
    }
