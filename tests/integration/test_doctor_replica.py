"""What `airboss doctor` reads from a real model server."""

from __future__ import annotations

from pathlib import Path

from serving_process import served

from console.doctor_facts import _asked, _metrics


def test_a_real_replica_is_asked_twice_and_answers_alike(tmp_path: Path) -> None:
    with served(tmp_path, context=64, layers=1) as server:
        said = _asked(server.socket)
        assert len(said) == 2 and said[0] == said[1] != ""
        found = _metrics(server.socket)
    assert found["vllm:num_requests_waiting"] == 0.0 and "vllm:kv_cache_usage_perc" in found
    assert found["vllm:admission_rejections_total/queue_full"] == 0.0
