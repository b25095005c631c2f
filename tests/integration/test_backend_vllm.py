"""The real vLLM behind our front: minutes on a CPU, so only when asked for, with the interpreter that has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from adapters.local.child import ChildSpec
from adapters.local.spawn import Spawner

PYTHON = os.environ.get("AIRBOSS_VLLM_PYTHON", sys.executable)
"""An interpreter that can import vLLM; its environment need not be ours."""
MODEL = os.environ.get("AIRBOSS_VLLM_MODEL", "")
"""A Hugging Face directory of a model that this machine's vLLM has kernels for (SmolLM2-135M is one)."""


def has_vllm() -> bool:
    found = subprocess.run(
        [PYTHON, "-c", "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"], check=False
    )
    return found.returncode == 0


@pytest.mark.long
def test_vllm_serves_a_model_and_ends_with_its_front(tmp_path: Path) -> None:
    if not has_vllm():
        pytest.skip(f"{PYTHON} has no vLLM; AIRBOSS_VLLM_PYTHON names an interpreter that has")
    if not MODEL:
        pytest.skip("AIRBOSS_VLLM_MODEL names no model's directory")
    serving: dict[str, Any] = {
        "backend": "vllm", "python": PYTHON, "dtype": "bfloat16", "max_model_len": 128, "max_num_seqs": 4,
        "extra_args": ["--enforce-eager"], "start_timeout_s": 280, "drain_accept_s": 0,
    }  # fmt: skip
    if shutil.which("nvidia-smi") is None:
        serving["env"] = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}"}
    payload = {"bundle": MODEL, "service": "chat", "release_id": "chat-1", "serving": serving}
    spec = ChildSpec("v0", "model", tmp_path, str(tmp_path / "v.sock"), "", payload)
    child = Spawner(tmp_path, tmp_path).spawn(spec, "engine.serving.server")
    assert child.popen is not None
    client = httpx.Client(transport=httpx.HTTPTransport(uds=spec.socket), base_url="http://model", timeout=60)
    try:
        while True:
            assert child.popen.poll() is None, (tmp_path / "v0.log").read_text()[-4000:]
            if Path(spec.socket).exists() and client.get("/ready").status_code == 200:
                break
            time.sleep(0.5)
        body = {"model": "chat", "prompt": "to be", "max_tokens": 5, "temperature": 0, "ignore_eos": True}
        whole = client.post("/v1/completions", json=body).json()
        assert whole["usage"]["completion_tokens"] == 5
        streamed = client.post("/v1/completions", json={**body, "stream": True}).text
        events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
        assert "".join(e["choices"][0]["text"] for e in events) == whole["choices"][0]["text"]
        assert streamed.endswith("data: [DONE]\n\n")
        assert 'vllm:generation_tokens_total{engine="0",model_name="chat"}' in client.get("/metrics").text
        family = psutil.Process(child.pid).children(recursive=True)
        assert len(family) >= 3
        child.popen.kill()
        _, left = psutil.wait_procs(family, timeout=30)
        assert not left, [p.cmdline() for p in left]
    finally:
        child.popen.kill()
        child.popen.wait()
