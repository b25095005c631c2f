"""AdamW without its class: the same numbers, and none of what the class imports."""

from __future__ import annotations

import subprocess
import sys

import torch

from engine.pipelines.stages.adamw import AdamW


def test_it_moves_parameters_as_torchs_own_class_does_bit_for_bit() -> None:
    torch.manual_seed(3)
    ours, theirs = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    theirs.load_state_dict(ours.state_dict())
    own = AdamW(ours.parameters(), betas=(0.9, 0.99), weight_decay=0.1)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    torchs = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    for step in range(20):
        lr = 0.1 / (step + 1)
        for model in (ours, theirs):
            model.zero_grad()
            model(torch.linspace(-1, 1, 4) * step).square().sum().backward()
        own.step(lr)
        for group in torchs.param_groups:
            group["lr"] = lr
        torchs.step()
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_a_training_does_not_import_torchs_compiler() -> None:
    program = (
        "import sys, torch; from engine.pipelines.stages.trainer import Recipe, train\n"
        "from engine.serving.models.gpt import GPT, GPTConfig\n"
        "how = Recipe(2, 4, 0.01, 1, 1, torch.float32, torch.device('cpu'))\n"
        "train(GPT(GPTConfig(1, 2, 16, 8, 5)), torch.arange(100) % 5, how, lambda _: None)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
