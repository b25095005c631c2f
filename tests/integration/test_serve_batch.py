"""`airboss serve --batch`: OpenAI's batch file in, answers out, and nothing lost to Ctrl-C or a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bundles import CHARS, gpt_bundle

from engine.serving.models.gpt import GPTConfig

pytestmark = pytest.mark.deep

AIRBOSS = str(Path(sys.executable).with_name("airboss"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    root = tmp_path / "bundle"
    gpt_bundle(
        root,
        GPTConfig(n_layer=2, n_head=2, n_embd=32, block_size=20_000, vocab_size=len(CHARS)),
        serving={"max_batch": 4, "kv_cache_mib": 64},
    )
    return root


def request(number: int, url: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    asked = {"model": "charlm-1", "prompt": "abc", "max_tokens": 60, "temperature": 0.9, "seed": number, **body}
    return {"custom_id": f"ask-{number}", "method": "POST", "url": url, "body": asked}


def run(root: Path, *, until: int | None = None) -> subprocess.Popen[bytes]:
    """The command; ended by Ctrl-C once `until` answers are there."""
    words = [
        AIRBOSS,
        "serve",
        str(root / "bundle"),
        "--batch",
        str(root / "in.jsonl"),
        "--out",
        str(root / "out.jsonl"),
    ]
    with (root / "log").open("ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root,
                                   env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    deadline = time.monotonic() + 90
    while until is not None and len(answers(root)) < until:
        assert process.poll() is None and time.monotonic() < deadline, (root / "log").read_text()
        time.sleep(0.02)
    if until is not None:
        process.send_signal(signal.SIGINT)
    process.wait(180)
    return process


def answers(root: Path) -> list[dict[str, Any]]:
    out = root / "out.jsonl"
    if not out.exists():
        return []
    return [json.loads(line) for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_a_batch_stopped_by_ctrl_c_goes_on_where_it_was(bundle: Path, tmp_path: Path) -> None:
    asked = [request(number) for number in range(30)]
    wrong = [
        request(50, prompt=""),
        request(51, "/v1/embeddings"),
        request(52, "/v1/chat/completions", messages=[{"role": "user", "content": "abc"}]),
        request(53, n=7, max_tokens=3, user="ann"),
    ]
    lines = [json.dumps(line) for line in (*wrong, *asked)]
    lines.insert(20, "{no json")
    # The first run cannot come to its end: behind what can be answered stands what takes for ever.
    endless = [json.dumps(request(number, max_tokens=19_000)) for number in range(100, 160)]
    (tmp_path / "in.jsonl").write_text("\n".join([*lines, *endless]))
    stopped = run(tmp_path, until=8)
    before = answers(tmp_path)
    assert stopped.returncode == 1
    assert 8 <= len(before) <= 35
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    with (tmp_path / "out.jsonl").open("ab") as out:
        out.write(b'{"id":"batch_req_ask-29","custom')
    assert run(tmp_path).returncode == 0, (tmp_path / "log").read_text()
    after = answers(tmp_path)
    assert after[: len(before)] == before
    assert len(after) == 35 and len({line["id"] for line in after}) == 35
    by_id = {line["custom_id"]: line for line in after}
    assert by_id["ask-7"]["response"]["status_code"] == 200
    assert by_id["ask-7"]["response"]["body"]["usage"]["completion_tokens"] == 60
    assert (by_id["ask-50"]["response"]["status_code"], by_id["ask-51"]["response"]["status_code"]) == (400, 400)
    assert by_id["ask-52"]["response"]["body"]["choices"][0]["message"]["role"] == "assistant"
    assert len(by_id["ask-53"]["response"]["body"]["choices"]) == 7
    assert by_id[None]["error"]["code"] == "invalid_line"
    log = (tmp_path / "log").read_text()
    assert f"{len(before)} were there before" in log
    assert run(tmp_path).returncode == 0
    assert "nothing is left to do" in (tmp_path / "log").read_text()
