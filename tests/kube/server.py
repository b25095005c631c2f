"""The server: one object a test holds, with what it keeps, what it refuses and what its controllers do."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from aiohttp import web

from kube.access import ADMIN_TOKEN, Access
from kube.api import Api
from kube.controllers.common import PODS, Controller
from kube.controllers.deployments import Deployments
from kube.controllers.endpoints import Endpoints
from kube.controllers.jobs import Jobs
from kube.controllers.pods import Pods
from kube.controllers.replicasets import Garbage, ReplicaSets
from kube.controllers.routes import Routes
from kube.faults import Fault, Faults, refusal
from kube.http import Http, no_backing
from kube.requests import RequestLog, Target
from kube.resources import RESOURCES, resource, resource_of
from kube.selectors import has_labels
from kube.store import Store
from kube.values import Clock, Obj, at
from kube.watch import Watches
from kube.writes import Writes


class KubeServer:
    """A Kubernetes API server on a loopback port, with its controllers.

    `automatic` controllers follow every write by themselves; otherwise the world moves by `settle` and `step` alone.
    `without` names API groups that this cluster does not have (`argoproj.io`, `gateway.networking.k8s.io`)."""

    def __init__(self, *, automatic: bool = True, without: Iterable[str] = ()) -> None:
        self.clock = Clock()
        self.store = Store()
        self.writes = Writes(self.store, self.clock)
        self.access, self.faults, self.requests = Access(), Faults(), RequestLog()
        self._loop = asyncio.new_event_loop()
        self.watches = Watches(self.store, self._loop)
        self.pods = Pods(self.store, self.writes, self.clock)
        self.deployments, self.replica_sets = Deployments(*self._parts), ReplicaSets(*self._parts)
        self.endpoints, self.routes, self.garbage = Endpoints(*self._parts), Routes(*self._parts), Garbage(*self._parts)
        self.jobs = Jobs(*self._parts)
        self.replica_sets.scripts = self.endpoints.scripts = self.pods
        self.controllers: list[Controller] = [
            self.deployments,
            self.replica_sets,
            self.jobs,
            self.pods,
            self.endpoints,
            self.routes,
            self.garbage,
        ]
        self.automatic = automatic
        served = [each for each in RESOURCES if each.group not in set(without)]
        self._api = Api(self.store, self.writes)
        self._http = Http(
            self._api, self.access, self.faults, self.requests, self.watches, served, self._log_of, self._backing
        )
        self._changed, self._stopped = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._serve, daemon=True),
            threading.Thread(target=self._follow, daemon=True),
        ]
        self._up = threading.Event()
        self.port = 0
        self._furnish()

    @property
    def _parts(self) -> tuple[Store, Writes, Clock]:
        return self.store, self.writes, self.clock

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    def _furnish(self) -> None:
        for name in ("default", "kube-system"):
            self.namespace(name)
        self.node("node-1")

    def namespace(self, name: str) -> None:
        """A namespace more."""
        made = self.writes.create(resource("namespaces"), "", {"metadata": {"name": name}}, "kube-apiserver")
        self.writes.set_status(resource("namespaces"), made, {"phase": "Active"})

    def node(self, name: str, gpus: int = 8) -> None:
        """A node more, with so many GPUs."""
        made = self.writes.create(resource("nodes"), "", {"metadata": {"name": name}, "spec": {}}, "kubelet")
        size = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": str(gpus)}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": self.clock.stamp()}
        self.writes.set_status(
            resource("nodes"), made, {"capacity": size, "allocatable": size, "conditions": [ready]}, "kubelet"
        )

    def start(self) -> None:
        """Answer on a free port of loopback."""
        for thread in self._threads:
            thread.start()
        assert self._up.wait(10), "the test API server did not come up within 10 s"

    def stop(self) -> None:
        """Close the port and end the controllers."""
        self._stopped.set()
        self._changed.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        for thread in self._threads:
            thread.join(10)
        self.jobs.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=8 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._http.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = int(runner.addresses[0][1])
        self.store.listen(self._told)
        self._up.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def _told(self) -> None:
        self.watches.woken()
        self._changed.set()

    def _follow(self) -> None:
        while not self._stopped.is_set():
            self._changed.wait(0.2)
            self._changed.clear()
            if self.automatic and not self._stopped.is_set():
                self.settle()

    def step(self, times: int = 1) -> None:
        """Let every controller make one pass."""
        with self.store.lock:
            for _ in range(times):
                for controller in self.controllers:
                    controller.reconcile()

    def settle(self) -> None:
        """Let the controllers work until none has anything left to do."""
        with self.store.lock:
            for _ in range(300):
                before = self.store.version
                self.step()
                if self.store.version == before:
                    return
        raise AssertionError("the controllers of the test server never come to rest; look at what their status says")

    def advance(self, seconds: float) -> None:
        """Move the server's clock, and let the controllers see it."""
        self.clock.advance(seconds)
        if self.automatic:
            self.settle()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Controllers do nothing by themselves meanwhile."""
        before, self.automatic = self.automatic, False
        try:
            yield
        finally:
            self.automatic = before
            self._changed.set()

    def wait_for(self, claim: Callable[[], bool], what: str, timeout_s: float = 10.0) -> None:
        """Wait until a claim about the world holds."""
        deadline = time.monotonic() + timeout_s
        while not claim():
            assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
            time.sleep(0.01)

    def object(self, plural: str, name: str, namespace: str = "default") -> Obj:
        """An object as it stands. Raises ApiError 404."""
        which = resource(plural)
        return self.store.get(which, namespace if which.namespaced else "", name)

    def objects(self, plural: str, namespace: str = "") -> list[Obj]:
        """Every object of a resource."""
        return self.store.all(resource(plural), namespace)

    def create(self, manifest: Obj, namespace: str = "default", manager: str = "kubectl-create") -> Obj:
        """Put an object there, as another client would."""
        which = resource_of(manifest)
        assert which is not None, f"no resource of {manifest.get('apiVersion')} {manifest.get('kind')} is served"
        return self.writes.create(which, namespace if which.namespaced else "", manifest, manager)

    def edit(
        self,
        plural: str,
        name: str,
        change: Callable[[Obj], None],
        namespace: str = "default",
        manager: str = "kubectl-edit",
    ) -> Obj:
        """Change an object behind everybody's back: `change` edits it in place."""
        with self.store.lock:
            live = self.object(plural, name, namespace)
            body = json.loads(json.dumps(live))
            change(body)
            return self.writes.change(resource(plural), live, body, manager)

    def fail(
        self, code: int, method: str = "*", path: str = "", times: int = 1, *, retry_after_s: int = 1, message: str = ""
    ) -> Fault:
        """Answer the next requests with an HTTP error, in the words of a real server."""
        answer = refusal(code, retry_after_s=retry_after_s, message=message)
        return self.faults.add(Fault(method, path, times, answer=answer))

    def reset(self, when: str, method: str = "*", path: str = "", times: int = 1) -> Fault:
        """Cut the connection of the next requests, `before` or `after` the write is made."""
        assert when in ("before", "after"), f"a connection is cut before or after the write, not {when!r}"
        return self.faults.add(Fault(method, path, times, reset=when))

    def kubeconfig(
        self, path: Path, *, token: str = ADMIN_TOKEN, namespace: str = "default", context: str = "test"
    ) -> Path:
        """Write a kubeconfig file for this server; the path again."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "user", "user": {"token": token}}],
            "contexts": [{"name": context, "context": {"cluster": "test", "user": "user", "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path

    def _log_of(self, namespace: str, name: str, previous: bool, container: str = "") -> tuple[str, bool]:
        pod = self.store.get(PODS, namespace, name)
        return self.jobs.log_of(pod, container) or (self.pods.log_of(pod), True)

    def _backing(self, target: Target) -> tuple[str, int]:
        name = target.name.split(":")[0]
        pods = [self.store.get(PODS, target.namespace, name)] if target.which is PODS else []
        if target.which.plural == "services":
            service = self.store.get(target.which, target.namespace, name)
            pods = [
                pod
                for pod in self.store.all(PODS, target.namespace)
                if has_labels(pod, at(service, "spec", "selector", default={}))
            ]
        for pod in pods:
            if (backing := self.pods.address_of(pod)) is not None:
                return backing
        raise no_backing(target)
