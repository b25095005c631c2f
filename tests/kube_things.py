"""Manifests that the tests of the Kubernetes server write, and the refusals they read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes.client.exceptions import ApiException


def deployment(name: str = "chat", image: str = "repo/chat:1", replicas: int = 2, **spec: Any) -> dict[str, Any]:
    """A Deployment of one container."""
    template = {
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "app", "image": image, "ports": [{"containerPort": 8000}]}]},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template, **spec},
    }


def service(name: str = "chat", port: int = 80, **selector: str) -> dict[str, Any]:
    """A Service on port 80 for pods with these labels."""
    spec = {"selector": selector or {"app": name}, "ports": [{"name": "http", "port": port, "targetPort": 8000}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def config_map(name: str = "settings", immutable: bool = False, **data: str) -> dict[str, Any]:
    """A ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": data,
        **({"immutable": True} if immutable else {}),
    }


def gateway(name: str = "front") -> dict[str, Any]:
    """A Gateway with one HTTP listener."""
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    spec = {"gatewayClassName": "envoy", "listeners": [listener]}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": name}, "spec": spec}


def route(name: str = "chat", *backends: tuple[str, int]) -> dict[str, Any]:
    """An HTTPRoute of one rule over services with their weights."""
    refs = [{"name": backend, "port": 80, "weight": weight} for backend, weight in backends]
    spec = {"parentRefs": [{"name": "front"}], "rules": [{"backendRefs": refs}]}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {"name": name}, "spec": spec}


def refused(call: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[int, dict[str, Any]]:
    """(status code, Status) of a call that the server must refuse."""
    with pytest.raises(ApiException) as caught:
        call(*args, **kwargs)
    return int(caught.value.status), json.loads(caught.value.body)
