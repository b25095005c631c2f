"""`service capacity`: what a person and a program read of the advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ROW = {
    "service": "chat", "env": "dev", "window_s": 300.0, "replicas": 2, "concurrency": 8, "wanted": 2, "autoscaled": True,
    "target": 0.75, "requests": 3000, "arrival_rate": 10.0, "service_time_s": 0.6, "wait_s": 0.1, "in_service": 6.0,
    "utilisation": 0.375, "recommended_concurrency": 8, "recommended_replicas": 1, "headroom_rps": 10.0,
}  # fmt: skip


def test_the_advice_states_its_window_and_its_numbers(engine: Any, airboss: Callable[..., Any]) -> None:
    engine.answers["/v1/services/chat/capacity"] = lambda query: [ROW] if query == {"window_s": "600"} else None
    said = airboss("service", "capacity", "chat", "--window", "10m")
    assert said.code == 0, said.err
    for words in (
        "2 ready of 2, set by the autoscaler; 8 at once each",
        "3000 requests over 300 s",
        "600 ms, 100 ms in a queue",
        "38 % of 16",
        "8 at once, 1 replica(s)",
        "10 requests/s",
    ):
        assert words in said.out
    assert airboss("service", "capacity", "chat", "--window", "10m", "-o", "json").json["items"] == [ROW]


def test_a_service_without_requests_gets_no_advice_made_up(engine: Any, airboss: Callable[..., Any]) -> None:
    quiet = {**dict.fromkeys(ROW), "service": "chat", "env": "dev", "window_s": 42.0, "replicas": 1,
             "concurrency": 8, "wanted": 1, "autoscaled": False, "target": 0.75, "requests": 0}  # fmt: skip
    engine.answers["/v1/services/chat/capacity"] = [quiet]
    said = airboss("service", "capacity", "chat")
    assert said.code == 0, said.err
    assert "no request ended in the 42 s that were seen" in said.out
    assert "headroom" not in said.out
