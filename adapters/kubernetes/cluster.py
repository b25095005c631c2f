"""One environment's place in a cluster: its client, what is watched there, and where its objects are."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx

from adapters.kubernetes.access import expiry_said, read_access
from adapters.kubernetes.client import KubeClient, Object
from adapters.kubernetes.lease import Lease
from adapters.kubernetes.objects import ours
from adapters.kubernetes.permissions import missing
from adapters.kubernetes.roles import Need
from adapters.kubernetes.watch import Cache
from state.config import Config
from state.kubernetes_config import Pods, Target
from state.words import AirbossError, Denied

APIS = {
    "deployments": "apis/apps/v1", "replicasets": "apis/apps/v1", "poddisruptionbudgets": "apis/policy/v1",
    "endpointslices": "apis/discovery.k8s.io/v1", "httproutes": "apis/gateway.networking.k8s.io/v1",
    "leases": "apis/coordination.k8s.io/v1", "horizontalpodautoscalers": "apis/autoscaling/v2",
    "scaledobjects": "apis/keda.sh/v1alpha1",
}  # fmt: skip
"""Where the resources are that are not in the core group."""
RANK = {"observe": 0, "weights": 1, "full": 2}
LOOK_S = 60.0


class Cluster:
    """What the runtime and the router of one environment share."""

    def __init__(
        self,
        env: str,
        target: Target,
        config: Config,
        root: Path,
        on_change: Callable[[], None],
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        client: KubeClient | None = None,
    ) -> None:
        self.env, self.target, self.config, self.root = env, target, config, root
        self.namespace = target.namespace or ""
        self.author = (
            f"{getpass.getuser()}@{socket.gethostname()}, airboss engine of {config.workspace.get('name', root.name)}"
        )
        self.client = client or KubeClient(
            partial(read_access, target.context, target.kubeconfig, root), timeout_s=target.timeout, transport=transport
        )
        self.pods = Cache(self.client, self.path("pods"), ours(env), on_change)
        self.deployments = Cache(self.client, self.path("deployments"), ours(env), on_change)
        self.lease = self._lease(on_change) if target.lease else None
        self.forbidden: tuple[Need, ...] = ()
        """What we may not do there, as the cluster itself says."""
        self._unasked = ""
        self.routes: dict[str, list[Object]] = {}
        """Service → the rules of its HTTPRoute, as last read or written."""

    def _lease(self, on_change: Callable[[], None]) -> Lease:
        lease = Lease(self.client, self.path("leases", f"airboss-{self.env}"), self._holder(), on_change=on_change)
        self.client.before_write, self.client.sign = lease.check, lease.signed
        return lease

    def _holder(self) -> str:
        """The same for every engine of this workspace on this host: its lock lets one be at a time."""
        return f"{getpass.getuser()}@{socket.gethostname()}:{self.root.resolve()}"

    def fenced(self, item: Object, operations: list[Object]) -> list[Object]:
        """`operations` on an object that is there, under the lease's term where there is a lease. Raises Unreachable under a later one's."""
        return operations if self.lease is None else self.lease.fenced(item, operations)

    def path(self, resource: str, *rest: str) -> str:
        """The path of a resource in the namespace, of one object, of a part of it."""
        return "/".join(["", APIS.get(resource, "api/v1"), "namespaces", self.namespace, resource, *rest])

    def pods_of(self, service: str) -> Pods:
        """What the service's pods are made of."""
        found = self.config.service.get(service)
        return found.kubernetes if found else Pods()

    def demand_ownership(self, least: str, what: str) -> None:
        """Raise Denied when the configuration leaves such a write to others."""
        if RANK[self.target.ownership] < RANK[least]:
            raise Denied(
                f'{what}: targets.ownership = "{self.target.ownership}" in {self.env}',
                hint=f'ownership = "{least}" lets the engine do it; else change it where it comes from (Git)',
                code="kube_ownership",
            )

    async def run(self) -> None:
        """Follow the cluster until cancelled."""
        try:
            leasing = () if self.lease is None else (self.lease.run(),)
            await asyncio.gather(self.pods.run(), self.deployments.run(), self._look(), *leasing)
        finally:
            await self.client.close()

    async def _look(self) -> None:
        """What we may not do is asked before it is needed, and again, for Roles change."""
        while True:
            try:
                await self.ask_allowed()
            except AirbossError as error:
                self._unasked = f"what we are allowed is not known: {error.message}"
            await asyncio.sleep(LOOK_S)

    async def ask_allowed(self) -> tuple[Need, ...]:
        """What of what a rollout needs is not allowed, asked now. Raises AirbossError when the cluster does not say."""
        self.forbidden = await missing(self.client, self.target)
        self._unasked = ""
        return self.forbidden

    @property
    def trouble(self) -> str:
        """Why what we know may be old; "" when it is not."""
        return self.pods.trouble or self.deployments.trouble

    def said(self) -> str:
        """For `status`."""
        parts = [self.trouble or f"namespace {self.namespace} at {self.client.host}"]
        if self.lease is not None:
            parts.append(
                f"lease held, term {self.lease.term}" if self.lease.is_held else f"waits: {self.lease.trouble}"
            )
        if self.forbidden:
            parts.append(f"not allowed: {', '.join(map(str, self.forbidden))}")
        if self._unasked:
            parts.append(self._unasked)
        return "; ".join([*parts, *filter(None, [expiry_said(self.client.expires_at)])])
