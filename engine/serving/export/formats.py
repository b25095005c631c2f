"""Writing the graph in another program's format, and running what was written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Logits = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""tokens int64 [B,T] -> logits float32 [B,T,V]."""
TORCHSCRIPT_NAME = "model.pt"
ONNX_NAME = "model.onnx"
ONE_FILE_BYTES = 1_500_000_000
"""A protobuf ends at 2 GB; weights of more than this lie beside the graph."""


def torch_logits(graph: nn.Module) -> Logits:
    """The model itself."""

    def run(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            found: NDArray[np.float32] = graph(torch.from_numpy(tokens)).float().numpy()
        return found

    return run


def write_torchscript(graph: nn.Module, directory: Path) -> Path:
    """Trace the graph and save it. TorchScript is no longer developed by torch, and still what LibTorch loads."""
    path = directory / TORCHSCRIPT_NAME
    with warnings.catch_warnings():
        # torch says that TorchScript is deprecated, and that shapes become constants: the check proves that none did.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(graph, (_example(),), check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))
    return path


def torchscript_logits(path: Path) -> Logits:
    """What was saved, loaded anew."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch_logits(torch.jit.load(str(path), map_location="cpu"))  # type: ignore[no-untyped-call]


def write_onnx(graph: nn.Module, directory: Path, context: int) -> Path:
    """Export the graph with free batch and length (1 to `context`)."""
    path = directory / ONNX_NAME
    size = sum(parameter.numel() * parameter.element_size() for parameter in graph.parameters())
    free = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=context)}
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (_example(),),
            str(path),
            dynamo=True,
            dynamic_shapes={"tokens": free},
            input_names=["tokens"],
            output_names=["logits"],
            external_data=size > ONE_FILE_BYTES,
            verbose=False,
        )
    return path


def onnx_logits(path: Path, threads: int) -> Logits:
    """What was exported, run by onnxruntime on the CPU."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that spin beside other processes make each wait for the others.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(None, {"tokens": tokens})[0]
        return found

    return run


def _example() -> torch.Tensor:
    """Two sequences of three: sizes that are no other size of a model's, so that nothing is taken for a constant."""
    return torch.zeros(2, 3, dtype=torch.int64)
