"""What a test asks for by name: `kube` (a server), `kubeconfig` (its file), `kube_client` (the official client's)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kube.server import KubeServer


@pytest.fixture
def kube() -> Iterator[KubeServer]:
    """An API server whose controllers follow every write by themselves."""
    from kube.server import KubeServer

    server = KubeServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def kubeconfig(kube: KubeServer, tmp_path: Path) -> Path:
    """A kubeconfig file for the server, with the admin's token."""
    return kube.kubeconfig(tmp_path / "kubeconfig")


@pytest.fixture
def kube_client(kubeconfig: Path) -> Iterator[Any]:
    """An ApiClient of the official `kubernetes` package."""
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=configuration, persist_config=False)
    configuration.retries = False
    with client.ApiClient(configuration) as opened:
        yield opened
