"""The README of an export: how it is run, and what was proven of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ONNX = """```python
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
tokens = np.array([[1, 2, 3]], dtype=np.int64)            # ids of tokenizer.json
logits = session.run(None, {"tokens": tokens})[0]         # float32 [batch, length, vocabulary]
next_token = int(logits[0, -1].argmax())
```
"""
_TORCHSCRIPT = """```python
import torch
model = torch.jit.load("model.pt")                        # LibTorch in C++: torch::jit::load("model.pt")
logits = model(torch.tensor([[1, 2, 3]]))                 # ids of tokenizer.json -> [batch, length, vocabulary]
next_token = int(logits[0, -1].argmax())
```

torch has deprecated TorchScript; it is what LibTorch and many runtimes load. New work is better off with ONNX.
"""
_TENSORRT = """`model.plan` runs on the GPU model and TensorRT version it was built with: `trtexec --loadEngine=model.plan --shapes=tokens:1x8`,
or `trt.Runtime(logger).deserialize_cuda_engine(...)`. `model.onnx` is what it was built from; `trtexec.log` is how.
The graph was checked against the model, the engine was not: compare its answers before it serves.

"""


def readme(manifest: Mapping[str, Any]) -> str:
    """What stands beside the files."""
    checked = manifest["checked"]
    how = {"onnx": _ONNX, "torchscript": _TORCHSCRIPT, "tensorrt": _TENSORRT + _ONNX}[manifest["format"]]
    return (
        f"# {manifest['release_id']} as {manifest['format']}\n\n"
        f"Release {manifest['release_id']}, digest `{manifest['digest']}`, in float32.\n"
        f"Batch is free, length 1 to {manifest['input']['max_length']}. The graph keeps no cache: each call computes the whole\n"
        "sequence, and the caller appends the token it chose.\n\n"
        f"{how}\n"
        f"Checked against torch {manifest['torch']} before it was written: logits on {checked['shapes']} shapes differ by at most\n"
        f"{checked['max_abs_diff']:.3g} (largest logit {checked['largest_logit']:.3g}, allowed {checked['tolerance']:.3g}), and the same "
        f"{checked['greedy_tokens']} greedy tokens follow\n{checked['prompts']} prompts. `export.json` has the sha256 of every file.\n"
    )
