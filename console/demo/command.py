"""`airboss demo` as a command: headless, or with the console open while the demo runs beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.demo.play import DemoWish, play_demo, write_result
from console.demo.workspace import END, PATIENCE_S
from state.paths import Paths
from state.words import ExitCode

if TYPE_CHECKING:
    from console.demo.options import DemoOptions


def run_demo(options: DemoOptions) -> int:
    """Play the demo as asked. Returns 0 only if every act did what it should."""
    return _headless(options) if options.headless else _beside_the_console(options)


def _headless(options: DemoOptions) -> int:
    wish = DemoWish(
        options.directory, options.text, options.fault, options.cut_evidence, options.keep, servers=options.servers
    )
    document = play_demo(wish)
    path = write_result(Paths.of(options.directory), document)
    if options.as_json:
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(summary(document) + f"\nthe whole document: {path}\n")
    return int(ExitCode.OK if document["ok"] else ExitCode.FAILED)


def _beside_the_console(options: DemoOptions) -> int:
    """The demo is a process of its own: closing the console, or the terminal, stops nothing."""
    from console.client import EngineClient
    from console.tui.app import run_console

    words = ["demo", str(options.directory), "--headless", "--keep", "-o", "json"]
    words += ["--text", str(options.text)] if options.text else []
    words += [] if options.fault else ["--no-fault"]
    words += ["--cut-evidence"] if options.cut_evidence else []
    words += ["--with", str(options.servers)] if options.servers else []
    paths = Paths.of(options.directory)
    with tempfile.NamedTemporaryFile("wb", prefix="airboss-demo-", suffix=".log", delete=False) as log:
        player = subprocess.Popen(
            [sys.executable, "-P", "-m", "console.cli", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=log, start_new_session=True,
        )  # fmt: skip
    if not _engine_is_up(player, paths):
        sys.stderr.write(Path(log.name).read_text(encoding="utf-8", errors="replace"))
        return player.wait()
    run_console(lambda: EngineClient.at_socket(paths.live_engine_socket()))
    return _farewell(player, paths, options.directory)


def _engine_is_up(player: subprocess.Popen[bytes], paths: Paths) -> bool:
    sys.stderr.write("the demo's engine starts …\n")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and player.poll() is None:
        if paths.engine_info.exists() and paths.live_engine_socket().exists():
            return True
        time.sleep(0.1)
    return False


def _farewell(player: subprocess.Popen[bytes], paths: Paths, directory: Path) -> int:
    code = player.poll()
    here = f"airboss --workspace {directory}"
    if code is None:
        sys.stdout.write(f"The demo goes on. Back to it: {here}   Stop it all: {here} {END}\n")
        return int(ExitCode.OK)
    result = paths.state / "demo.json"
    if result.exists():
        sys.stdout.write(summary(json.loads(result.read_text(encoding="utf-8"))) + "\n")
    sys.stdout.write(f"It still serves. Look around: {here}   Stop it all: {here} {END}\n")
    return code


def summary(document: dict[str, Any]) -> str:
    """The document in a few lines."""
    lines = []
    for act in document["acts"]:
        rollout = act.get("rollout")
        said = (
            f"{rollout['id']} {rollout['state']}: {rollout['to_release']}"
            if rollout
            else act.get("release", {}).get("id", "")
        )
        said = said if act["ok"] else f"FAILED: {act['error']['message']}"
        lines.append(f"act {act['act']} {act['name']:<8} {act['seconds']:6.1f} s  {said}")
    requests = document["requests"]
    lines.append(
        f"requests: {requests['sent']} sent, {requests['answered']} answered, {requests['failed']} failed "
        f"({requests['stable_failed']} of those that went to stable)"
    )
    lines.append(f"audit: {document['audit']['rows']} rows, head {document['audit']['head'][:12]}")
    lines.append(f"{'all acts did what they should' if document['ok'] else 'NOT ok'}, in {document['seconds']:.0f} s")
    return "\n".join(lines)
