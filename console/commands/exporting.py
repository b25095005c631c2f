"""`export`: the exporters are programs of their own, so that no console ever loads torch, or the engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.commands.model_source import find_bundle
from console.output import Facts, Outcome, Text
from state.backup import write_whole
from state.words import ERRORS_BY_EXIT, OperationFailed, TimedOut, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

PIPELINES_MODULE = "engine.pipelines.exports"
MODULE, RULES_MODULE = "engine.serving.export", "engine.observe.exports"
RULES_FILE = "airboss.rules.yml"
RULES_TIMEOUT_S = 60.0
TIMEOUT_S = 4 * 3600.0
"""A TensorRT engine of a large model takes long; `--timeout` shortens it."""


def export(context: Context, *, model: str, format_: str, out: Path) -> Outcome:
    """Export, and say what was written. Raises what kept it from being written."""
    bundle, release_id, digest = find_bundle(context, model)
    if context.options.dry_run:
        return Outcome("Export", [], blocks=(Facts((("would export", f"{release_id} as {format_} to {out}"),)),))
    words = [str(bundle), "--digest", digest, "--format", format_, "--out", str(out.expanduser().absolute())]
    done = _run(MODULE, words, context.options.timeout_s or TIMEOUT_S, f"the export of {release_id}")
    manifest: dict[str, Any] = json.loads(done.splitlines()[-1])
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


def rules(context: Context, *, out: Path | None) -> Outcome:
    """The files for Prometheus and Grafana, written to a directory, or the rule file shown."""
    written = json.loads(_run(RULES_MODULE, [str(context.paths.root)], RULES_TIMEOUT_S, "the export of the rules"))
    items = [{"name": name, "path": str(out / name) if out else None, "text": text} for name, text in written.items()]
    if out is None:
        return Outcome("Rules", items, blocks=(Text(written[RULES_FILE].rstrip()),), names=tuple(written))
    if context.options.dry_run:
        said = f"would write {', '.join(written)} to {out}"
        return Outcome("Rules", items, blocks=(Text(said),), names=tuple(written))
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in written.items():
            write_whole(out / name, text)
    except OSError as error:
        raise OperationFailed(f"{out} cannot be written: {error}", hint="name another directory with --out") from error
    facts = Facts(
        (
            ("rules", f"{out / RULES_FILE}: name it in Prometheus's rule_files"),
            ("scraping", f"{out / 'airboss.scrape.yml'}: what to add to its scrape_configs"),
            ("dashboard", f"{out / 'airboss.dashboard.json'}: import it into Grafana"),
        )
    )
    return Outcome("Rules", items, blocks=(facts,), names=tuple(str(out / name) for name in written))


def pipeline(context: Context, *, name: str, to: str, image: str, out: Path | None) -> Outcome:
    """A pipeline as another program's file, written or shown."""
    text = _run(PIPELINES_MODULE, [str(context.paths.root), name, to, image], RULES_TIMEOUT_S, f"the export of {name}")
    item = {"pipeline": name, "to": to, "path": str(out) if out else None, "text": text}
    if out is None:
        return Outcome("PipelineExport", [item], blocks=(Text(text.rstrip()),), names=(name,))
    if not context.options.dry_run:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_whole(out, text)
        except OSError as error:
            raise OperationFailed(f"{out} cannot be written: {error}", hint="name another file with --out") from error
    said = "would write" if context.options.dry_run else "written"
    return Outcome("PipelineExport", [item], blocks=(Facts(((said, str(out)),)),), names=(str(out),))


def _run(module: str, words: list[str], timeout_s: float, what: str) -> str:
    """The output of a program of ours. Raises what kept it from being done."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", module, *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{what} was not done after {error.timeout:g} s; it was ended") from error
    if done.returncode:
        raise _refusal(done)
    return done.stdout


def _refusal(done: subprocess.CompletedProcess[str]) -> Exception:
    lines = done.stderr.strip().splitlines()
    try:
        body = json.loads(lines[-1])["error"]
    except (IndexError, ValueError, KeyError, TypeError):
        kind = ERRORS_BY_EXIT.get(done.returncode, OperationFailed)
        return kind(f"the exporter ended with {done.returncode}: {' | '.join(lines[-4:])}", hint="it wrote nothing")
    return error_from_dict(body)
