"""Pods in the fleet and among what serves: counted by release, ready or not, and without an age that nobody knows."""

from __future__ import annotations

from typing import Any

from adapters.ports import ReplicaStatus
from console.tui.record_rows import replica_row
from engine.api.views.fleet import pod_view, ready_pods


def pod(name: str, release: str = "charlm-1", **more: Any) -> ReplicaStatus:
    given = {"is_ready": True, "is_alive": True, "restarts": 2} | more
    return ReplicaStatus(name, "chat", "production", release, "d", 0, "http://10.0.0.1:8000", 0, **given)


def test_pods_are_counted_by_release_without_those_that_leave_or_are_a_baseline() -> None:
    pods = [
        pod("a"),
        pod("b", is_ready=False),
        pod("c", is_wanted=False),
        pod("d", role="baseline"),
        pod("e", "charlm-2"),
    ]
    assert ready_pods(pods) == {"charlm-1": (1, 2), "charlm-2": (1, 1)}


def test_a_pod_is_shown_with_its_state_and_without_pid_or_age() -> None:
    shown = replica_row(pod_view(pod("chat-7d9f", is_ready=False)), now=1.8e9).text
    assert "chat-7d9f" in shown and "starting" in shown and "2" in shown
    assert " d " not in shown and "20833" not in shown, "nobody knows when it began"
    assert "down" in replica_row(pod_view(pod("x", is_ready=False, is_alive=False)), now=0.0).text
