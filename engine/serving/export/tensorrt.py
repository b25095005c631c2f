"""A TensorRT engine from the checked ONNX graph, by NVIDIA's own `trtexec`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from state.words import OperationFailed

ENGINE_NAME = "model.plan"
LOG_NAME = "trtexec.log"
BUILD_TIMEOUT_S = 3600.0
MOST_BATCH = 8


def build(program: str, onnx: Path, context: int) -> Path:
    """Build the engine beside the graph, for batches up to MOST_BATCH. Raises OperationFailed with its last lines."""
    engine, log = onnx.with_name(ENGINE_NAME), onnx.with_name(LOG_NAME)
    command = [
        program,
        f"--onnx={onnx}",
        f"--saveEngine={engine}",
        "--minShapes=tokens:1x1",
        f"--optShapes=tokens:1x{max(1, context // 2)}",
        f"--maxShapes=tokens:{MOST_BATCH}x{context}",
    ]
    try:
        with log.open("wb") as out:
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, timeout=BUILD_TIMEOUT_S, check=False
            ).returncode  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OperationFailed(f"trtexec could not build the engine: {error}", code="trtexec") from error
    if code or not engine.is_file():
        said = " | ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-6:])
        raise OperationFailed(f"trtexec ended with {code} and built no engine; its last words: {said}", code="trtexec")
    return engine
