"""`export`: what a release is, in another program's words."""

from __future__ import annotations

from pathlib import Path

import click

from console.commands.requests import LocalRequest
from console.commands.tree import DURATION, Noun, leaf

export = Noun(
    "export",
    help="What is here, in another program's format.",
    examples=(
        ("airboss export model charlm-3 --format onnx --out ./charlm-3-onnx", "checked against torch first"),
        ("airboss export rules --out ./monitoring", "for Prometheus and Grafana"),
        ("airboss export incident --since 3h --service chat --out ./incidents", "what happened, for the review"),
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


@leaf(
    export,
    "incident",
    examples=(
        ("airboss export incident", "the last two hours, as Markdown"),
        ("airboss export incident --since 6h --until 2h --service chat --env production", "a stretch of one service"),
        ("airboss export incident --since 3h --out ./incidents", "Markdown and JSON, in a directory"),
    ),
)
@click.option(
    "--since",
    "since_s",
    type=DURATION,
    default="2h",
    show_default=True,
    metavar="T",
    help="Where it begins, before now.",
)
@click.option("--until", "until_s", type=DURATION, default="0s", metavar="T", help="Where it ends, before now.")
@click.option("--service", metavar="SERVICE", help="Of this service alone.")
@click.option("-e", "--env", help="Of this environment alone.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Write Markdown and JSON there."
)
def incident(since_s: float, until_s: float, service: str | None, env: str | None, out: Path | None) -> LocalRequest:
    """Write down what happened: alerts, rollouts with their verdicts, service levels, a timeline, and what people did as a script.

    It is read from the record, with or without an engine.
    """
    return LocalRequest(
        "console.commands.incident:export",
        {"since_s": since_s, "until_s": until_s, "service": service, "env": env, "out": out},
    )
