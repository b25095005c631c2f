"""`export model`: the exporter is a program of its own, so that no console ever loads torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.commands.model_source import find_bundle
from console.output import Facts, Outcome
from state.words import ERRORS_BY_EXIT, OperationFailed, TimedOut, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

MODULE = "engine.serving.export"
TIMEOUT_S = 4 * 3600.0
"""A TensorRT engine of a large model takes long; `--timeout` shortens it."""


def export(context: Context, *, model: str, format_: str, out: Path) -> Outcome:
    """Export, and say what was written. Raises what kept it from being written."""
    bundle, release_id, digest = find_bundle(context, model)
    if context.options.dry_run:
        return Outcome("Export", [], blocks=(Facts((("would export", f"{release_id} as {format_} to {out}"),)),))
    words = [str(bundle), "--digest", digest, "--format", format_, "--out", str(out.expanduser().absolute())]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", MODULE, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=context.options.timeout_s or TIMEOUT_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"the export of {release_id} was not done after {error.timeout:g} s; it was ended") from error
    if done.returncode:
        raise _refusal(done)
    manifest: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    checked = manifest["checked"]
    facts = Facts(
        (
            ("written", str(out)),
            ("release", f"{manifest['release_id']}, sha256:{manifest['digest'][:12]}"),
            ("format", f"{format_}, {manifest['dtype']}, length 1 to {manifest['input']['max_length']}"),
            ("logits differ by", f"{checked['max_abs_diff']:.3g} at most on {checked['shapes']} shapes"),
            ("greedy text", f"the same on {checked['prompts']} prompts, {checked['greedy_tokens']} tokens each"),
            ("files", ", ".join(file["path"] for file in manifest["files"])),
        )
    )
    return Outcome("Export", [{**manifest, "out": str(out)}], blocks=(facts,), names=(str(out),))


def _refusal(done: subprocess.CompletedProcess[str]) -> Exception:
    lines = done.stderr.strip().splitlines()
    try:
        body = json.loads(lines[-1])["error"]
    except (IndexError, ValueError, KeyError, TypeError):
        kind = ERRORS_BY_EXIT.get(done.returncode, OperationFailed)
        return kind(f"the exporter ended with {done.returncode}: {' | '.join(lines[-4:])}", hint="it wrote nothing")
    return error_from_dict(body)
