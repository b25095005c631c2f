"""`python -m engine.serving.export`: one export in a process of its own; one JSON line on stdout says what came of it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine.serving.export.needs import demand
from engine.serving.startup import calm_openmp, thread_count
from state.words import AirbossError


def main(argv: list[str]) -> int:
    """Export as the arguments say. Returns the documented exit code; a refusal is one JSON line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m engine.serving.export", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--digest", default="")
    parser.add_argument("--format", choices=("onnx", "torchscript", "tensorrt"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    threads = thread_count(0)
    calm_openmp(threads)
    try:
        demand(options.format)
        from engine.serving.export.writer import Wish, export

        manifest = export(Wish(options.bundle, options.digest, options.format, options.out.absolute(), threads))
    except AirbossError as error:
        sys.stderr.write(json.dumps({"error": error.as_dict()}) + "\n")
        return int(error.exit)
    sys.stdout.write(json.dumps(manifest) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
