"""`bench`: a benchmark as a program of its own, so that nothing of the console is measured with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from console import diagnostics
from console.commands.requests import LocalRequest
from console.commands.tree import leaf
from engine.bench.catalogue import BENCHES

if TYPE_CHECKING:
    from console.commands.context import Context
    from console.output import Outcome

MODULE = "engine.bench"
STOP_GRACE_S = 30.0


@leaf(
    None,
    "bench",
    examples=(
        ("airboss bench gateway", "every row of the gateway beside its target; exit 8 if one is missed"),
        ("airboss bench gateway --quick -o json", "in seconds, as JSON: rows, hardware, whether all targets are met"),
        ("airboss bench serving -- --only nano", "our model server beside the seed's; --only: some of the rows"),
        ("airboss bench rollback --quick", "ten rollbacks under load, beside reloading nginx and telling HAProxy"),
        ("airboss bench soak -- --minutes 30", "half an hour of mixed load, and whether anything leaks"),
        ("airboss bench judge --quick", "the judge's false alarms, power and time to a verdict, beside other rules"),
        ("airboss bench lineage", "the questions of lineage on a million edges, each beside its 50 ms"),
        ("airboss bench pipeline", "a stage's overhead, run and not run again, beside `dvc repro`"),
        ("airboss bench console --quick", "start, key to paint with 10,000 rows, bytes per second, memory"),
        ("airboss bench strategies", "p99 and errors of a move by each strategy, 10,000 requests each"),
        ("airboss bench serving -- --help", "what a benchmark takes besides"),
    ),
)
@click.argument("name", metavar="NAME", type=click.Choice(tuple(BENCHES)))
@click.option("--rounds", type=click.IntRange(1, 1000), metavar="N", help="Interleaved rounds (default: its own).")
@click.option("--quick", is_flag=True, help="Seconds instead of minutes; the numbers are noisier.")
@click.argument("more", nargs=-1, metavar="[-- OPTION...]", type=click.UNPROCESSED)
def bench(name: str, rounds: int | None, quick: bool, more: tuple[str, ...]) -> LocalRequest:
    """Measure this machine: ours and the others side by side, in interleaved rounds, each row beside its target.

    NAME is gateway, console, judge, lineage, pipeline, rollback, serving, soak or strategies (`airboss help benchmarks`). It needs no engine and no workspace,
    starts what it measures itself, and is alone in its numbers only on a machine that does nothing else.
    """
    words = [*(("--rounds", str(rounds)) if rounds else ()), *(("--quick",) if quick else ()), *more]
    return LocalRequest("console.commands.bench:run", {"name": name, "words": tuple(words)})


def run(context: Context, *, name: str, words: tuple[str, ...]) -> Outcome:
    """Hand over to the benchmark: it prints by itself, and its exit code is ours."""
    from console.output import Outcome
    from state.words import ExitCode, UsageError

    wanted = context.options.output
    if wanted not in ("table", "json"):
        raise UsageError(f"bench prints a table or json, not {wanted}", hint="-o json is for programs")
    child = subprocess.Popen([sys.executable, "-P", "-m", MODULE, name, "-o", wanted, *words], stdin=subprocess.DEVNULL)
    try:
        code = child.wait()
    except KeyboardInterrupt:  # the terminal sent it to the child as well, which stops its servers now
        code = _end(child)
    finally:
        if child.poll() is None:
            child.terminate()
            _end(child)
    if code < 0:
        diagnostics.note(f"the benchmark was ended by {signal.Signals(-code).name}")
        return Outcome.printed(ExitCode.FAILED)
    return Outcome.printed(ExitCode(code))


def _end(child: subprocess.Popen[bytes]) -> int:
    try:
        return child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return child.wait()
