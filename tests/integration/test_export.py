"""Exports: what is written computes what the model computes, or is not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bundles import CHARS, seal
from safetensors.torch import save_file

from engine.serving.export import formats, needs, tensorrt
from engine.serving.export.check import compare, greedy
from engine.serving.export.graph import whole_sequence
from engine.serving.export.writer import Wish, export
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.models.llama import Llama
from engine.serving.models.llama_config import LlamaConfig
from engine.serving.tokenizer import CharTokenizer
from state.digests import file_sha256
from state.words import GateRefused, OperationFailed, UsageError

pytestmark = pytest.mark.deep

CONFIG = GPTConfig(n_layer=2, n_head=2, n_embd=16, block_size=24, vocab_size=len(CHARS))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of a random model whose logits are far apart."""
    root = tmp_path_factory.mktemp("release") / "charlm-1"
    root.mkdir()
    torch.manual_seed(3)
    model = GPT(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    save_file(model.state_dict(), root / "model.safetensors")
    (root / "config.json").write_text(json.dumps(CONFIG.to_json()))
    (root / "tokenizer.json").write_text(json.dumps({"type": "char", "chars": list(CHARS)}))
    (root / "serving.json").write_text(json.dumps({"dtype": "bfloat16"}))
    seal(root)
    return root


def test_an_onnx_export_runs_elsewhere_at_any_batch_and_length(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "onnx"
    manifest = export(Wish(bundle, "", "onnx", out))
    assert manifest["checked"]["max_abs_diff"] <= manifest["checked"]["tolerance"]
    assert {path.name for path in out.iterdir()} == {
        "model.onnx", "tokenizer.json", "config.json", "README.md", "export.json",
    }  # fmt: skip
    written = json.loads((out / "export.json").read_text())
    assert all(file_sha256(out / file["path"]) == file["sha256"] for file in written["files"])
    script = (
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('model.onnx', providers=['CPUExecutionProvider'])\n"
        "for shape in ((1, 1), (4, 24)):\n"
        "    print(session.run(None, {'tokens': numpy.zeros(shape, numpy.int64)})[0].shape)\n"
    )
    told = subprocess.run([sys.executable, "-I", "-c", script], cwd=out, capture_output=True, text=True, check=True)
    assert told.stdout.split("\n")[:2] == ["(1, 1, 29)", "(4, 24, 29)"]
    assert "length 1 to 24" in (out / "README.md").read_text()


def test_a_llama_with_grouped_heads_exports_to_both_formats(tmp_path: Path) -> None:
    config = LlamaConfig.from_json({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(CHARS), "max_position_embeddings": 32,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "hidden_act": "silu",
    })  # fmt: skip
    model = Llama(config)
    torch.manual_seed(5)
    weights = {name: torch.randn(p.shape) * 0.3 for name, p in model.named_parameters()}
    model.load_state_dict(weights, strict=True, assign=True)
    graph = whole_sequence(model)
    ours = formats.torch_logits(graph)
    for exported in (
        formats.torchscript_logits(formats.write_torchscript(graph, tmp_path)),
        formats.onnx_logits(formats.write_onnx(graph, tmp_path, 32), 1),
    ):
        found = compare(ours, exported, CharTokenizer(CHARS), vocab_size=len(CHARS), context=32)
        assert found.max_abs_diff < 1e-4 < found.largest_logit


def test_an_export_that_differs_is_refused_and_nothing_is_left(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = formats.torchscript_logits
    monkeypatch.setattr(formats, "torchscript_logits", lambda path: lambda tokens: load(path)(tokens) + 0.01)
    with pytest.raises(GateRefused, match=r"logits differ by 0\.01"):
        export(Wish(bundle, "", "torchscript", tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_a_difference_that_only_shows_in_the_text_is_found_too() -> None:
    vocabulary = CharTokenizer(CHARS)

    def model(tokens: np.ndarray) -> np.ndarray:
        found = np.zeros((*tokens.shape, len(CHARS)), np.float32)
        found[..., 3] = 1e-6
        return found

    def other(tokens: np.ndarray) -> np.ndarray:
        found = model(tokens)
        found[..., 4] = 2e-6
        return found

    assert greedy(model, [1], 3) == [3, 3, 3]
    with pytest.raises(GateRefused, match="the export continues 'To be, or not to be' with 'cc"):
        compare(model, other, vocabulary, vocab_size=len(CHARS), context=24)


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None if name.startswith("onnx") else object())
    with pytest.raises(UsageError, match="needs onnx, onnxscript, onnxruntime, which are not installed") as caught:
        export(Wish(bundle, "", "onnx", tmp_path / "out"))
    assert caught.value.hint == "pip install 'airboss[export]'"


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    airboss = str(Path(sys.executable).with_name("airboss"))
    return subprocess.run([airboss, "export", "model", *words], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, **env})  # fmt: skip


def test_the_command_writes_torchscript_once_and_refuses_a_taken_directory(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text("")
    words = (str(bundle), "--format", "torchscript", "--out", str(tmp_path / "ts"), "--workspace", str(tmp_path))
    done = run(*words, "-o", "json")
    assert done.returncode == 0, done.stderr
    (item,) = json.loads(done.stdout)["items"]
    assert item["checked"]["greedy_tokens"] == 16
    loaded = formats.torchscript_logits(tmp_path / "ts" / "model.pt")
    assert loaded(np.zeros((3, 5), np.int64)).shape == (3, 5, len(CHARS))
    again = run(*words)
    assert again.returncode == 2
    assert "is there already" in again.stderr


def test_tensorrt_without_trtexec_is_a_sentence_and_exit_2(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text("")
    done = run(str(bundle), "--format", "tensorrt", "--out", str(tmp_path / "trt"), "--workspace", str(tmp_path),
               PATH=str(tmp_path))  # fmt: skip
    assert done.returncode == 2
    assert "needs trtexec, which is not on the PATH" in done.stderr


def test_trtexec_is_given_the_graph_and_the_free_sizes_and_its_refusal_is_told(tmp_path: Path) -> None:
    tool, graph = tmp_path / "trtexec", tmp_path / "model.onnx"
    tool.write_text('#!/bin/sh\necho "$@"\nfor w in "$@"; do case $w in --saveEngine=*) : > "${w#*=}";; esac; done\n')
    tool.chmod(0o755)
    assert tensorrt.build(str(tool), graph, 24) == tmp_path / "model.plan"
    said = (tmp_path / "trtexec.log").read_text()
    assert f"--onnx={graph} " in said
    assert "--minShapes=tokens:1x1 --optShapes=tokens:1x12 --maxShapes=tokens:8x24" in said
    (tmp_path / "model.plan").unlink()
    tool.write_text("#!/bin/sh\necho no GPU here\nexit 1\n")
    with pytest.raises(OperationFailed, match="ended with 1 and built no engine; its last words: no GPU here"):
        tensorrt.build(str(tool), graph, 24)
