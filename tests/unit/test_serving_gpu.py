"""The model server on a GPU: the tokens of a CPU, with graphs and without, in every form of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine.bench.serving.causal import causal_attention
from engine.serving.compute.assemble import engine_for, optimize
from engine.serving.compute.core import EngineCore
from engine.serving.compute.quantize import quantize
from engine.serving.compute.runner import Runner
from engine.serving.loader import LoadedModel, Model
from engine.serving.models.gpt import GPT, GPTConfig
from engine.serving.models.linear import Linear
from engine.serving.models.llama import Llama
from engine.serving.models.llama_config import LlamaConfig
from engine.serving.request import ErrorKind, SamplingParams
from engine.serving.settings import ServingSettings
from engine.serving.tokenizer import CharTokenizer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

LETTERS = "".join(chr(index) for index in range(0x4E00, 0x4E00 + 128))
NANO = GPTConfig(n_layer=3, n_head=4, n_embd=128, block_size=256, vocab_size=128)
LLAMA = LlamaConfig.from_json(
    {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 128,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
)
LENGTHS = (1, 3, 17, 40, 64, 100, 5)


def weights_of(model: Model) -> Model:
    """Random weights whose likeliest token leads by far more than sums differ in another order."""
    if isinstance(model, Llama):
        state = {
            name: torch.ones(value.shape) if "norm" in name else torch.randn(value.shape) * 0.15
            for name, value in model.state_dict().items()
        }
        model.load_state_dict(state, strict=True, assign=True)
    else:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(8)
    return model.eval().requires_grad_(False)


def on(device: str, family: str, **settings: object) -> LoadedModel:
    serving = ServingSettings.model_validate({"max_batch": 8, "max_batch_tokens": 96, **settings})
    config = NANO if family == "nano" else LLAMA
    torch.manual_seed(11)
    model = weights_of(GPT(NANO) if family == "nano" else Llama(LLAMA))
    model = copy.deepcopy(model).to(device=device, dtype=getattr(torch, serving.dtype))
    loaded = LoadedModel(model, CharTokenizer(LETTERS), config, serving)
    optimize(loaded)
    return loaded


def answers(core: EngineCore, prompts: Sequence[Sequence[int]], **params: object) -> dict[int, str]:
    texts = dict.fromkeys(range(1, len(prompts) + 1), "")
    for number, prompt in enumerate(prompts, 1):
        wanted = SamplingParams(max_tokens=40, **({"temperature": 0.0} | params))  # type: ignore[arg-type]
        core.add(number, prompt, wanted, arrived_at=0.0)
    while core.has_work:
        for update in core.step().updates:
            assert update.error is None
            texts[update.number] += update.text
    return texts


def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(0, 128, (length,), generator=generator).tolist() for length in LENGTHS]


@pytest.mark.parametrize("family", ["nano", "llama"])
def test_greedy_tokens_are_a_cpus_with_graphs_and_without(family: str) -> None:
    expected = answers(engine_for(on("cpu", family, native_kernels=False)), prompts())
    core = engine_for(on("cuda", family))
    assert isinstance(core.runner, Runner) and core.runner._graphs is not None
    assert answers(core, prompts()) == expected
    plain = engine_for(on("cuda", family))
    assert isinstance(plain.runner, Runner)
    plain.runner._graphs = None
    assert answers(plain, prompts()) == expected


@pytest.mark.parametrize("family", ["nano", "llama"])
def test_a_seeded_answer_does_not_depend_on_its_batch(family: str) -> None:
    wish = {"temperature": 0.9, "top_k": 40, "top_p": 0.95, "seed": 5}
    together = answers(engine_for(on("cuda", family)), prompts(), **wish)
    for number, prompt in enumerate(prompts(), 1):
        assert answers(engine_for(on("cuda", family)), [prompt], **wish)[1] == together[number]


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_a_smaller_dtype_computes_nearly_the_same_logits(dtype: str, most: float) -> None:
    tokens = torch.tensor(prompts()[5], device="cuda")

    def logits(loaded: LoadedModel) -> torch.Tensor:
        with torch.inference_mode():
            positions = torch.arange(len(tokens), device="cuda")
            return loaded.model.head(loaded.model.hidden(tokens, positions, causal_attention)).float()

    exact, found = logits(on("cuda", "llama")), logits(on("cuda", "llama", dtype=dtype))
    assert float((found - exact).norm() / exact.norm()) < most


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("int8_weight_only", 0.02), ("int4", 0.12)])
@pytest.mark.parametrize("rows", [1, 4, 32, 100])
def test_a_product_in_fewer_bits_is_nearly_the_whole_ones(kind: str, most: float, rows: int) -> None:
    torch.manual_seed(2)
    with torch.inference_mode():
        model = nn.Sequential(Linear(256, 512, bias=True)).to(device="cuda", dtype=torch.bfloat16)
        x = torch.randn(rows, 256, device="cuda", dtype=torch.bfloat16)
        exact = model(x).float()
        quantize(model, kind, torch.device("cuda"))
        assert float((model(x).float() - exact).norm() / exact.norm()) < most


def test_out_of_memory_fails_one_request_and_the_next_is_answered() -> None:
    core = engine_for(on("cuda", "nano"))
    expected = answers(engine_for(on("cuda", "nano")), prompts()[:1])[1]
    inner = core.runner

    class Greedy:
        """Asks the GPU for more than it has whenever a long prompt is computed."""

        def run(self, rows: Sequence[object]) -> torch.Tensor:
            if any(len(row.tokens) > 64 for row in rows):  # type: ignore[attr-defined]
                torch.empty(1 << 44, dtype=torch.uint8, device="cuda")
            return inner.run(rows)  # type: ignore[arg-type]

        def wipe(self, blocks: Sequence[int]) -> None:
            inner.wipe(blocks)

    core.runner = Greedy()
    params = SamplingParams(max_tokens=40, temperature=0.0)
    core.add(1, prompts()[5], params, arrived_at=0.0)
    core.add(2, prompts()[0], params, arrived_at=0.0)
    errors, text = {}, ""
    while core.has_work:
        for update in core.step().updates:
            errors[update.number] = update.error
            text += update.text if update.number == 2 else ""
    assert errors == {1: ErrorKind.OUT_OF_MEMORY, 2: None}
    assert text == expected


def test_a_cache_larger_than_the_gpu_is_cut_to_what_is_free() -> None:
    free, _ = torch.cuda.mem_get_info()
    core = engine_for(replace(on("cuda", "nano"), serving=ServingSettings(max_batch=8)))
    left, _ = torch.cuda.mem_get_info()
    assert 0 < core.blocks.count <= 8 * 256 // 16
    assert free - left < free / 10
