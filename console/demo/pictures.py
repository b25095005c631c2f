"""`python -m console.demo.pictures`: play the demo and draw the console at its moments, as SVG and PNG.

PNG takes cairosvg, which the `test` extra installs, and a monospaced font (Debian: fonts-dejavu-core).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from console.client import EngineClient
from console.demo.play import DemoWish, play_demo
from console.tui.shots import save_screens
from state.words import ExitCode

PNG_WIDTH = 1600
_MOMENTS = {"training": "pipeline", "canary": "rollout", "rolled_back": "rolled-back"}


def main(argv: list[str] | None = None) -> int:
    """Draw the pictures into --out. Returns 0 when the demo did what it should."""
    parser = argparse.ArgumentParser(prog="python -m console.demo.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="airboss-pictures-") as scratch:
        return _draw(Path(scratch) / "demo", options.out.resolve())


def _draw(workspace: Path, out: Path) -> int:
    drawn: set[str] = set()

    def moment(name: str, ref: str) -> None:
        if name in drawn:
            return
        drawn.add(name)
        screens = [f"{_MOMENTS[name]}={ref}"]
        if name == "canary":
            screens.append("fleet")
        if name == "rolled_back":
            screens += ["lineage=lineage/service:chat@production", "alerts", "audit", "rollback"]
        with EngineClient.for_workspace(workspace) as client:
            to_png(save_screens(client, out, screens))

    document = play_demo(DemoWish(workspace, moment=moment))
    return int(ExitCode.OK if document["ok"] else ExitCode.FAILED)


def to_png(drawings: list[Path]) -> None:
    """Each SVG as PNG beside it."""
    from cairosvg import svg2png

    for drawing in drawings:
        svg2png(url=str(drawing), write_to=str(drawing.with_suffix(".png")), output_width=PNG_WIDTH)
        sys.stderr.write(f"drew {drawing.with_suffix('.png')}\n")


if __name__ == "__main__":
    sys.exit(main())
