"""`export`: what a release is, in another program's words."""

from __future__ import annotations

from pathlib import Path

import click

from console.commands.requests import LocalRequest
from console.commands.tree import Noun, leaf

export = Noun(
    "export",
    help="What is here, in another program's format.",
    examples=(
        ("airboss export model charlm-3 --format onnx --out ./charlm-3-onnx", "checked against torch first"),
        ("airboss export rules --out ./monitoring", "for Prometheus and Grafana"),
    ),
)


@leaf(
    export,
    "model",
    examples=(
        ("airboss export model charlm-3 --format onnx --out ./onnx", "for onnxruntime: free batch and length"),
        ("airboss export model charlm-3 --format torchscript --out ./ts", "for LibTorch"),
        ("airboss export model charlm-3 --format tensorrt --out ./trt", "an engine for this host's GPU, by trtexec"),
    ),
)
@click.argument("model", metavar="RELEASE|DIR")
@click.option(
    "--format", "format_", type=click.Choice(("onnx", "torchscript", "tensorrt")), required=True, help="What to write."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="A directory that does not exist yet."
)
def model(model: str, format_: str, out: Path) -> LocalRequest:
    """Write a release's model with its tokenizer, a manifest of sha256 and how to run it.

    What was written is run and compared with torch (logits, and greedy text); if it differs nothing is kept. Exit 8.
    """
    return LocalRequest("console.commands.exporting:export", {"model": model, "format_": format_, "out": out})


@leaf(
    export,
    "rules",
    examples=(
        ("airboss export rules", "the rule file, to read"),
        ("airboss export rules --out ./monitoring", "rules, what to scrape, and a dashboard for Grafana"),
    ),
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="A directory; files of the same names are replaced.",
)
def rules(out: Path | None) -> LocalRequest:
    """Write the services' objectives as Prometheus rules: recordings, burn-rate alerts, and alerts of the gateway itself.

    They are the engine's own arithmetic: the same events, windows, factors and volume guard. With `[alerts] evaluate =
    "prometheus"` they are the ones that alert, and the engine's burn rates are silent.
    """
    return LocalRequest("console.commands.exporting:rules", {"out": out})
