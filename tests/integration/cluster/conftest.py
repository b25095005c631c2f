"""A workspace whose production is a namespace of a test API server, with pods that generate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from kube_room import CANARY, CONFIG, ROUTED, KubeRoom, Make
from kube_things import gateway
from serving_pods import model

from adapters.kubernetes import objects
from state.store import Store

if TYPE_CHECKING:
    from kube.server import KubeServer

__all__ = ["model"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    made = Store.open(tmp_path / "state.db")
    yield made
    made.close()


@pytest.fixture
def make(kube: KubeServer, kubeconfig: Path, tmp_path: Path, store: Store, model: int) -> Make:
    """Makes the room of a policy and a target."""
    kube.create(gateway())
    kube.pods.address("127.0.0.1", model, labels={objects.NAME: "chat"})

    def made(policy: str = CANARY, target: str = ROUTED, judge: str = "") -> KubeRoom:
        toml = CONFIG.format(kubeconfig=kubeconfig, target=target, policy=policy, judge=judge)
        return KubeRoom(store, tmp_path, toml, kube=kube)

    return made
