"""The gateway's controller: the status of Gateways and HTTPRoutes, on time, late, or refusing, as a test says."""

from __future__ import annotations

from kube.controllers.common import Controller, with_condition
from kube.resources import resource
from kube.values import Obj, at

GATEWAYS, ROUTES, SERVICES = resource("gateways"), resource("httproutes"), resource("services")
NAME = "gateway.envoyproxy.io/gatewayclass-controller"


class Routes(Controller):
    """Accepts what its Gateway is there for; says so at the generation it has seen."""

    held = False
    """True: nothing is observed, so that observedGeneration stays behind."""
    refusal: tuple[str, str] | None = None
    """(reason, message) with which every route is not accepted."""

    def reconcile(self) -> None:
        """Write the status of every Gateway and route."""
        if self.held:
            return
        for gateway in self.store.all(GATEWAYS):
            self._gateway(gateway)
        for route in self.store.all(ROUTES):
            self._route(route)

    def _conditions(self, old: list[Obj], generation: int, *wanted: tuple[str, bool, str, str]) -> list[Obj]:
        rows = old
        for kind, holds, reason, message in wanted:
            row = {
                "type": kind,
                "status": str(holds),
                "reason": reason,
                "message": message,
                "observedGeneration": generation,
            }
            rows = with_condition(rows, row, self.clock.stamp())
        return rows

    def _gateway(self, gateway: Obj) -> None:
        generation = gateway["metadata"]["generation"]
        old = at(gateway, "status", "conditions", default=[])
        said = (
            ("Accepted", True, "Accepted", "The Gateway has been scheduled"),
            ("Programmed", True, "Programmed", "Address assigned"),
        )
        status = {
            **gateway.get("status", {}),
            "conditions": self._conditions(old, generation, *said),
            "addresses": at(gateway, "status", "addresses", default=[{"type": "IPAddress", "value": "10.96.200.1"}]),
        }
        self.writes.set_status(GATEWAYS, gateway, status, "envoy-gateway")

    def _route(self, route: Obj) -> None:
        namespace = route["metadata"]["namespace"]
        parents = []
        for ref in at(route, "spec", "parentRefs", default=[]):
            if self.store.find(GATEWAYS, ref.get("namespace", namespace), ref["name"]) is None:
                continue
            old = next((each for each in at(route, "status", "parents", default=[]) if each["parentRef"] == ref), {})
            reason, message = self.refusal or ("Accepted", "Route is accepted")
            accepted = ("Accepted", self.refusal is None, reason, message)
            rows = self._conditions(
                old.get("conditions", []), route["metadata"]["generation"], accepted, self._resolved(route)
            )
            parents.append({"parentRef": ref, "controllerName": NAME, "conditions": rows})
        self.writes.set_status(ROUTES, route, {**route.get("status", {}), "parents": parents}, "envoy-gateway")

    def _resolved(self, route: Obj) -> tuple[str, bool, str, str]:
        for rule in at(route, "spec", "rules", default=[]):
            mirrors = [
                at(each, "requestMirror", "backendRef") for each in rule.get("filters") or [] if "requestMirror" in each
            ]
            for backend in [*(rule.get("backendRefs") or []), *mirrors]:
                namespace = backend.get("namespace", route["metadata"]["namespace"])
                if backend["kind"] == "Service" and self.store.find(SERVICES, namespace, backend["name"]) is None:
                    return "ResolvedRefs", False, "BackendNotFound", f"service {namespace}/{backend['name']} not found"
        return "ResolvedRefs", True, "ResolvedRefs", "Resolved all the Object references for the Route"
