"""`airboss doctor` and the five faults that serving models meets most: each found on evidence, each with what to do."""

from __future__ import annotations

import fcntl
import json
import os
import socketserver
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from console.doctor_facts import Facts, _oom_kills
from console.doctor_faults import answers, findings, memory, refusals, speed, starts
from engine.serving.memory import DoesNotFit, Need, refuse_unless_fits

METRICS = """# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{model_name="chat"}} {waiting}
vllm:kv_cache_usage_perc{{model_name="chat"}} {cache}
vllm:admission_rejections_total{{model_name="chat",reason="queue_full"}} {full}
vllm:admission_rejections_total{{model_name="chat",reason="invalid"}} 9.0
vllm:request_latency NaN
"""
Run = Callable[..., Any]


class _Process(socketserver.ThreadingUnixStreamServer):
    """Something that serves metrics and, for a model server, answers."""

    daemon_threads = True
    metrics = ""
    says: Callable[[], str] | None = None


class _Handler(BaseHTTPRequestHandler):
    server: _Process

    def do_GET(self) -> None:
        self._send(self.server.metrics)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert (asked["temperature"], asked["seed"]) == (0, 1)
        assert self.server.says is not None
        self._send(json.dumps({"choices": [{"text": self.server.says()}]}))

    def _send(self, text: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def child(workspace: Any) -> Iterator[Callable[..., None]]:
    """Makes living children: a lock that is held, an identity, a socket that answers."""
    workspace.make()
    closing: list[Callable[[], Any]] = []

    def make(spawn_id: str, metrics: str, says: Callable[[], str] | None = None, release: str = "charlm-2") -> None:
        kind = "model" if says else "gateway"
        path = workspace.sockets / f"{spawn_id}.sock"
        path.parent.mkdir(parents=True, exist_ok=True)
        server = _Process(str(path), _Handler)
        server.metrics, server.says = metrics, says
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        fd = os.open(workspace.run / f"{spawn_id}.lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(fd, fcntl.LOCK_EX)
        payload = {"service": "chat", "env": "production", "release_id": release} if says else {}
        spec = {"spawn_id": spawn_id, "kind": kind, "socket": str(path), "payload": payload}
        (workspace.run / f"{spawn_id}.spec.json").write_text(json.dumps(spec))
        (workspace.run / f"{spawn_id}.json").write_text(json.dumps({"pid": os.getpid(), "started_at": 1.0}))
        closing.extend((server.shutdown, server.server_close, lambda: os.close(fd)))

    yield make
    for end in closing:
        end()


def doctor(airboss: Run) -> dict[str, dict[str, str]]:
    """Each check by its name."""
    return {item["name"]: item for item in airboss("doctor", "-o", "json").json["items"]}


def quiet() -> str:
    return METRICS.format(waiting=0.0, cache=0.1, full=0.0)


FLEET = [
    {"service": "chat", "env": "production", "p95_ms": 84.0, "tracks": [{"release_id": "charlm-2", "weight": 100}]}
]
SLOS = [{"service": "chat", "env": "production", "latency_p95_ms": 800.0}]


@pytest.fixture
def serving(engine: Any) -> Any:
    """The fake engine, with one service that does well."""
    engine.answers |= {"/v1/fleet": FLEET, "/v1/slos": SLOS, "/v1/services/chat/logs": [], "/v1/rollouts": []}
    return engine


def test_all_is_well_is_said_of_each(serving: Any, child: Any, airboss: Run) -> None:
    child("m-1", quiet(), lambda: "the same")
    child("m-2", quiet(), lambda: "the same")
    found = doctor(airboss)
    assert {
        name: found[name]["level"] for name in ("memory", "speed", "refusals", "answers", "starts")
    } == dict.fromkeys(("memory", "speed", "refusals", "answers", "starts"), "ok")


def test_a_workspace_in_which_nothing_serves_is_not_asked(workspace: Any, airboss: Run) -> None:
    assert "memory" not in doctor(airboss)


def test_fault_1_a_model_that_does_not_fit_is_found_in_its_own_words(serving: Any, airboss: Run) -> None:
    with pytest.raises(DoesNotFit) as refused:
        refuse_unless_fits(Need(weights=7_000_000_000, cache_per_token=65536, context=4096), "float32", 2**33, "cpu")
    text = f"loading\n{json.dumps({'level': 'error', 'message': refused.value.message})}\n"
    log = {"id": "m-9", "release_id": "charlm-3", "state": "exited", "end_cause": "DoesNotFit", "text": text}
    serving.answers["/v1/services/chat/logs"] = [log]
    found = doctor(airboss)["memory"]
    assert found["level"] == "fail" and "m-9 of charlm-3" in found["found"] and "are free on cpu" in found["found"]
    assert "max_batch" in found["todo"] and "int8" in found["todo"]


def test_fault_1_a_replica_killed_without_a_word_beside_a_kernel_that_killed(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("low 0\noom 3\noom_kill 2\n")
    killed = {"id": "m-9", "release_id": "charlm-3", "end_cause": "killed, cause unknown", "text": "serving\n"}
    facts = Facts(logs=[killed], oom_kills=_oom_kills(events))
    found = memory(facts)
    assert found is not None and "2 process(es)" in found[1] and "memory limit" in found[2]
    assert memory(replace(facts, oom_kills=0)) is None, "killed by a hand is not out of memory"
    assert _oom_kills(tmp_path / "none") == 0


@pytest.mark.parametrize(
    ("waiting", "cache", "says", "todo"),
    [
        (7.0, 0.2, "7 requests wait", "more replicas"),
        (0.0, 0.97, "KV cache is 97 % full", "kv_cache_mib"),
        (0.0, 0.1, "each request by itself is slow", "vLLM"),
    ],
)
def test_fault_2_slow_says_where_the_time_goes(
    serving: Any, child: Any, airboss: Run, waiting: float, cache: float, says: str, todo: str
) -> None:
    serving.answers["/v1/fleet"] = [{**FLEET[0], "p95_ms": 2400.0}]
    child("m-1", METRICS.format(waiting=waiting, cache=cache, full=0.0), lambda: "x")
    found = doctor(airboss)["speed"]
    assert found["level"] == "fail" and "its objective is 800" in found["found"]
    busy = "the processor is the queue" in found["found"]
    assert says in found["found"] or (busy and "by itself" in says)
    assert todo in found["todo"] or busy


def test_fault_2_a_busy_processor_is_a_cause() -> None:
    facts = Facts(fleet=[{**FLEET[0], "p95_ms": 2400.0}], slos=SLOS, load=9.0, cores=2)
    found = speed(facts)
    assert found is not None and "load 9.0 on 2 cores" in found[1] and "model_threads" in found[2]


def test_fault_3_concurrent_requests_that_were_turned_away(serving: Any, child: Any, airboss: Run) -> None:
    child("m-1", METRICS.format(waiting=0.0, cache=0.1, full=4.0), lambda: "x")
    child("g-1", 'airboss_rejected_total{reason="max_inflight"} 12.0\nairboss_rejected_total{reason="bad_json"} 3.0\n')
    found = doctor(airboss)["refusals"]
    assert found["level"] == "warn" and "gateway max_inflight 12, charlm-2 queue_full 4" in found["found"]
    assert "bad_json" not in found["found"] and "invalid" not in found["found"]
    assert "replicas" in found["todo"] and "Retry-After" in found["todo"]


def test_fault_4_replicas_of_one_release_that_answer_differently(serving: Any, child: Any, airboss: Run) -> None:
    child("m-1", quiet(), lambda: "one thing")
    child("m-2", quiet(), lambda: "another")
    found = doctor(airboss)["answers"]
    assert found["level"] == "fail" and "in 2 ways: m-1 against m-2" in found["found"]
    assert "airboss release verify charlm-2" in found["todo"] and "airboss service restart chat" in found["todo"]


def test_fault_4_a_replica_that_differs_from_itself(serving: Any, child: Any, airboss: Run) -> None:
    said = iter(range(1000))
    child("m-1", quiet(), lambda: f"answer {next(said)}")
    assert "in 2 ways: m-1 against m-1" in doctor(airboss)["answers"]["found"]


def test_fault_4_two_releases_at_once_are_named() -> None:
    tracks = [{"release_id": "charlm-1", "weight": 75}, {"release_id": "charlm-2", "weight": 25}]
    found = answers(Facts(fleet=[{**FLEET[0], "tracks": tracks}]))
    assert found is not None and found[0] == "warn" and "charlm-1 and charlm-2" in found[1]
    assert "rollout list --active" in found[2]


def test_fault_5_a_replica_that_dies_again_and_again(serving: Any, airboss: Run) -> None:
    serving.answers["/v1/serving"] = [
        {"spawn_id": "m-3", "kind": "model", "service": "chat", "env": "production", "release_id": "charlm-3", "pid": 0,
         "state": "starting", "restarts": 4, "started_at": 1.0, "detail": "exited 1"}
    ]  # fmt: skip
    serving.answers["/v1/services/chat/logs"] = [
        {
            "id": "m-3",
            "release_id": "charlm-3",
            "end_cause": "exited",
            "text": "Traceback\nImportError: libcuda.so.1\n\n",
        }
    ]
    found = doctor(airboss)["starts"]
    assert found["level"] == "fail" and "started again 4 times" in found["found"] and "libcuda.so.1" in found["found"]
    assert "airboss service logs" in found["todo"] and "nvidia.com/gpu" in found["todo"]


def test_fault_5_a_crash_loop_and_want_of_capacity() -> None:
    loop = starts(Facts(alerts=[{"name": "CrashLoop", "summary": "charlm-3 dies"}], has_gpu_driver=True))
    assert loop is not None and loop[1] == "charlm-3 dies"
    waits = {
        "id": "ro-7",
        "state": "paused",
        "pause_reason": "capacity",
        "message": "0/3 nodes: insufficient nvidia.com/gpu",
    }
    short = starts(Facts(rollouts=[waits]))
    assert short is not None and "insufficient nvidia.com/gpu" in short[1] and "no NVIDIA driver" in short[1]


def test_five_lines_always() -> None:
    assert [found[0] for found in findings(Facts())] == ["memory", "speed", "refusals", "answers", "starts"]
    assert refusals(Facts(rejected={"bad_json": 4.0})) is None
