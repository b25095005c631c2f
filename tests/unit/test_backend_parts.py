"""The pure parts of a foreign backend: settings, command lines, the pulse, the bodies, the metrics' names."""

from __future__ import annotations

import json
import sys

import pytest

from console.commands.serving_table import serving_table
from engine.serving.backend.launch import Places, plan_launch, refuse_what_cannot_start
from engine.serving.backend.profiles import mapped
from engine.serving.backend.pulse import MISSES, Pulse
from engine.serving.backend.rewrite import generated, rewrite
from engine.serving.backend.settings import VllmSettings, backend_of, backend_settings
from engine.serving.front.errors import ApiError
from state.words import ConfigError, OperationFailed, UsageError

PLACES = Places(port=4001, metrics_port=4002, socket="/run/x.b", model="/m", model_name="chat", api_key="k3y")
SERVED = frozenset({"chat", "chat-1"})


def test_torch_is_meant_when_nothing_is_said_and_a_service_overrides_its_release() -> None:
    assert backend_of({}, {}) == "torch"
    assert backend_of({"backend": "vllm"}, {"backend": "torch"}) == "torch"
    with pytest.raises(ConfigError, match="there is no backend 'triton'"):
        backend_of({}, {"backend": "triton"})


def test_what_only_torch_knows_may_stand_in_a_release_but_not_in_a_services_table() -> None:
    command = {"backend": "command", "command": ["serve", "{port}"]}
    assert backend_settings({"max_batch": 4, "request_deadline_s": 9}, command).request_deadline_s == 9
    vllm = backend_settings({"quantization": "int8", "dtype": "float16", "max_queue": 3}, {"backend": "vllm"})
    assert isinstance(vllm, VllmSettings) and (vllm.quantization, vllm.dtype) == ("", "float16")
    made_for_it = backend_settings({"backend": "vllm", "quantization": "awq"}, {})
    assert isinstance(made_for_it, VllmSettings) and made_for_it.quantization == "awq"
    with pytest.raises(ConfigError, match="max_batch cannot be used"):
        backend_settings({}, {**command, "max_batch": 4})
    with pytest.raises(ConfigError, match=r"neither \{port\} nor \{socket\}"):
        backend_settings({}, {"backend": "command", "command": ["serve"]})


def test_places_are_filled_and_say_how_the_server_is_reached() -> None:
    settings = backend_settings({}, {
        "backend": "command", "command": ["tritonserver", "--http-port={port}", '{"a": 1}'], "env": {"M": "{metrics_port}"},
    })  # fmt: skip
    launch = plan_launch(settings, PLACES)
    assert launch.argv == ("tritonserver", "--http-port=4001", '{"a": 1}')
    assert (launch.base, launch.uds, launch.api_key) == ("http://127.0.0.1:4001", "", "")
    assert (launch.metrics_url, launch.env) == ("http://127.0.0.1:4002/metrics", {"M": "4002"})
    by_socket = backend_settings({}, {"backend": "command", "command": ["s", "--uds", "{socket}", "{api_key}"]})
    launch = plan_launch(by_socket, PLACES)
    assert (launch.uds, launch.api_key, launch.argv[-1]) == ("/run/x.b", "k3y", "k3y")
    odd = backend_settings({}, {"backend": "command", "command": ["s", "{port}", "{gpu}"]})
    with pytest.raises(ConfigError, match=r"\{gpu\}, which is no place"):
        plan_launch(odd, PLACES)


def test_a_program_that_is_not_there_is_named_before_anything_is_started() -> None:
    for table, said in (
        ({"backend": "command", "command": ["no-such-program", "{port}"]}, "program no-such-program is not there"),
        ({"backend": "vllm", "python": "/no/python"}, "interpreter /no/python for vLLM cannot be run"),
    ):
        with pytest.raises(OperationFailed, match=said):
            refuse_what_cannot_start(backend_settings({}, table))
    refuse_what_cannot_start(backend_settings({}, {"backend": "command", "command": [sys.executable, "{port}"]}))


def test_the_pulse_forgives_one_missed_probe_and_no_second() -> None:
    pulse = Pulse()
    assert pulse.why_not_ready(now=5.0, stuck_after_s=10) == "starting: starting the backend"
    pulse.prove(5.0)
    assert pulse.why_not_ready(now=14.9, stuck_after_s=10) is None
    assert pulse.why_not_ready(now=15.1, stuck_after_s=10) == "the backend is stuck: no answer for 10.1 s"
    for _ in range(MISSES):
        assert pulse.why_not_ready(now=6.0, stuck_after_s=10) is None
        pulse.miss("500")
    assert pulse.why_not_ready(now=6.0, stuck_after_s=10) == "the backend fails its probes: 500"
    pulse.prove(7.0)
    pulse.is_draining = True
    assert pulse.why_not_serving(now=7.0, stuck_after_s=10) is None
    assert pulse.why_not_ready(now=7.0, stuck_after_s=10) == "draining: this replica is leaving"


def test_only_the_models_name_is_rewritten() -> None:
    call = rewrite("/v1/completions", b'{"model": "chat-1", "x": {"y": "\xc3\xa9"}, "stream": true}', SERVED, "m")
    assert (call.route, json.loads(call.body), call.is_stream) == (
        "/v1/completions", {"model": "m", "x": {"y": "é"}, "stream": True}, True,
    )  # fmt: skip
    assert json.loads(rewrite("/v1/completions", b"{}", SERVED, "m").body) == {"model": "m"}
    short = rewrite("/generate", b'{"prompt": "a", "top_k": 3}', SERVED, "m")
    assert (short.route, json.loads(short.body)["max_tokens"]) == ("/v1/completions", 100)
    chat = rewrite("/generate", b'{"prompt": "a"}', SERVED, "m", has_only_chat=True)
    assert (chat.route, json.loads(chat.body)["messages"]) == (
        "/v1/chat/completions", [{"role": "user", "content": "a"}],
    )  # fmt: skip
    for body, code in ((b'{"prompt": 1}', "invalid_value"), (b'{"prompt": "a", "echo": 1}', "invalid_value")):
        with pytest.raises(ApiError) as caught:
            rewrite("/generate", body, SERVED, "m")
        assert (caught.value.status, caught.value.code) == (400, code)


def test_an_answer_that_is_no_completion_is_the_backends_fault() -> None:
    assert json.loads(generated(b'{"choices": [{"text": "x"}]}')) == {"text": "x", "tokens_generated": 1}
    said = b'{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 4}}'
    assert json.loads(generated(said)) == {"text": "x", "tokens_generated": 4}
    with pytest.raises(ApiError) as caught:
        generated(b'{"detail": "moved"}')
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("profile", "text", "expected"),
    [
        (
            "tgi",
            "# TYPE tgi_queue_size gauge\ntgi_queue_size 4\n# TYPE tgi_request_generated_tokens histogram\n"
            'tgi_request_generated_tokens_bucket{le="+Inf"} 2\ntgi_request_generated_tokens_sum 30\n'
            "tgi_request_generated_tokens_count 2\n",
            {"vllm:num_requests_waiting": 4.0, "vllm:generation_tokens_total": 30.0},
        ),
        (
            "triton",
            "# TYPE nv_trt_llm_request_metrics gauge\n"
            'nv_trt_llm_request_metrics{model="t",request_type="active",version="1"} 5\n'
            'nv_trt_llm_request_metrics{model="t",request_type="waiting",version="1"} 6\n'
            "# TYPE nv_inference_pending_request_count gauge\nnv_inference_pending_request_count 9\n"
            "# TYPE nv_inference_request_success counter\n"
            'nv_inference_request_success{model="a"} 1\nnv_inference_request_success{model="b"} 2\n',
            {"vllm:num_requests_running": 5.0, "vllm:num_requests_waiting": 6.0, "vllm:request_success_total": 3.0},
        ),
        ("vllm", "vllm:num_requests_running 1\n", {}),
    ],
)
def test_foreign_names_become_vllms_and_nothing_is_made_up(profile: str, text: str, expected: dict[str, float]) -> None:
    found = mapped(profile, text)  # type: ignore[arg-type]
    assert {series.name: series.value for series in found} == expected


def test_the_words_of_serve_make_a_serving_table() -> None:
    assert serving_table(None, (), ()) == {}
    assert serving_table("vllm", ("dtype=bfloat16", "tensor_parallel=2"), ()) == {
        "backend": "vllm", "dtype": "bfloat16", "tensor_parallel": 2,
    }  # fmt: skip
    assert serving_table("command", (), ("s", "{port}"))["command"] == ["s", "{port}"]
    for backend, argv in (("command", ()), (None, ("s",))):
        with pytest.raises(UsageError, match="stands after"):
            serving_table(backend, (), argv)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": [], "prompt": "x"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    ],
)
def test_a_body_that_cannot_be_passed_on_is_its_senders_fault(content: bytes) -> None:
    """A 500 would count against the release, and put the replica out."""
    with pytest.raises(ApiError) as refused:
        rewrite("/v1/completions", content, frozenset({"chat"}), "chat")
    assert refused.value.status == 400
