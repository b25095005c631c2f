"""`python -m engine.bench NAME`: run one benchmark, print its report, leave with 8 when a target is missed."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from types import FrameType
from typing import NoReturn

from engine.bench.catalogue import BENCHES
from engine.bench.report import Report
from state.words import AirbossError, ExitCode


def main(argv: list[str]) -> int:
    """Run the benchmark named first. Returns the exit code."""
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    if name not in BENCHES:
        lines = [f"  {known:<11} {line}" for known, (_, line) in BENCHES.items()]
        sys.stderr.write("\n".join(["usage: python -m engine.bench NAME [options]; NAME is one of", *lines]) + "\n")
        return ExitCode.OK if "--help" in argv or "-h" in argv else ExitCode.USAGE
    module, line = BENCHES[name]
    bench = importlib.import_module(module)
    parser = argparse.ArgumentParser(prog=f"airboss bench {name}", description=line)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="How to print.")
    parser.add_argument("--rounds", type=_positive, help="Interleaved rounds (default: the bench's own).")
    parser.add_argument("--quick", action="store_true", help="Seconds instead of minutes; wider noise.")
    bench.add_options(parser)
    options = parser.parse_args(argv[1:])
    signal.signal(signal.SIGTERM, _stop)
    try:
        report: Report = bench.measure(options)
    except AirbossError as error:
        said = json.dumps({"error": error.as_dict()}) if options.output == "json" else f"error: {error.message}"
        sys.stderr.write(said + (f"\n  {error.hint}" if error.hint and options.output != "json" else "") + "\n")
        return error.exit
    except KeyboardInterrupt:
        return ExitCode.INT
    sys.stdout.write((report.as_json() if options.output == "json" else report.as_table()) + "\n")
    return report.exit_code


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one round")
    return number


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that every server the bench has started is stopped."""
    sys.exit(ExitCode.TERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
