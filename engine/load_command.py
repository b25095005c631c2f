"""`python -m engine.load_command`: one load as a process, with a JSON line a second on stdout and a last one for the end.

The console runs it; SIGTERM and SIGINT end it gently: what is in flight is waited for, then reported.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from engine.load import LoadGenerator, LoadPlan
from state.words import AirbossError, ExitCode

PROGRESS_S = 1.0
DEFAULT_PROMPTS = (
    "The following ",
    "A function ",
    "An expression ",
    "If the class ",
    "The import statement ",
    "Objects are ",
    "In this case, ",
    "The value of ",
)


def main(argv: list[str] | None = None) -> int:
    """Send the load that the arguments describe. Returns 0 when every request was answered, 1 when some failed."""
    options = _parser().parse_args(argv)
    prompts = DEFAULT_PROMPTS
    if options.prompts is not None:
        prompts = tuple(line for line in options.prompts.read_text(encoding="utf-8").splitlines() if line)
    plan = LoadPlan(
        url=options.url, service=options.service, env=options.env, prompts=prompts, rps=options.rps,
        max_tokens=options.max_tokens, requests=options.requests, duration_s=options.duration,
        concurrency=options.concurrency, timeout_s=options.request_timeout, seed=options.seed,
        allow_remote=options.allow_remote, api_key=os.environ.get("AIRBOSS_API_KEY", ""), trust=options.trust,
        show=options.show,
    )  # fmt: skip
    try:
        return asyncio.run(_run(plan))
    except AirbossError as error:
        sys.stderr.write(json.dumps({"error": error.as_dict()}) + "\n")
        return int(error.exit)


async def _run(plan: LoadPlan) -> int:
    generator = LoadGenerator(plan)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, generator.stop)
    telling = asyncio.create_task(_tell(generator))
    report = await generator.run()
    telling.cancel()
    _line("END", report.to_json())
    return int(ExitCode.FAILED if report.failed else ExitCode.OK)


async def _tell(generator: LoadGenerator) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        _line("PROGRESS", generator.snapshot().to_json())


def _line(kind: str, body: dict[str, object]) -> None:
    sys.stdout.write(json.dumps({"type": kind, **body}) + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.load_command", description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--env", default="")
    parser.add_argument("--rps", type=float, default=10.0)
    parser.add_argument("--duration", type=float)
    parser.add_argument("--requests", type=int)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--request-timeout", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trust", type=Path)
    parser.add_argument("--show", type=Path)
    parser.add_argument("--allow-remote", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
