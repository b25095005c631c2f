"""What an export needs beside torch. Asked before torch is imported: a refusal should not take seconds."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import Literal

from state.words import UsageError

Format = Literal["onnx", "torchscript", "tensorrt"]


def demand(wanted: Format) -> None:
    """Raise UsageError naming what is missing for the format, and how it is had."""
    if wanted == "tensorrt":
        trtexec()
    if wanted != "torchscript":
        _demand_onnx()


def trtexec() -> str:
    """Where `trtexec` is. Raises UsageError when it is not on the PATH."""
    found = shutil.which("trtexec")
    if found is None:
        raise UsageError(
            "a TensorRT export needs trtexec, which is not on the PATH",
            hint="it comes with TensorRT (Debian's libnvinfer-bin of NVIDIA, or NVIDIA's container)",
            code="no_trtexec",
        )
    return found


def _demand_onnx() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"an ONNX export needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            hint="pip install 'airboss[export]'",
            code="no_extra",
        )
