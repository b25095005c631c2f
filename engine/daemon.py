"""The engine's process: reads the config, takes the workspace's lock, serves until it is told to stop. One a workspace."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from importlib.metadata import version as package_version
from pathlib import Path

from adapters.local.child import write_json
from engine.assembly import Engine
from engine.lock import EngineLock
from engine.people.governing import at_start
from state.config import Config, load_config
from state.databases import database
from state.paths import Paths
from state.store import Store
from state.words import AirbossError, ExitCode


def main(argv: list[str] | None = None) -> int:
    """Be the engine of `--workspace`. Returns the documented exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.daemon", description="The engine of one workspace.")
    parser.add_argument("--workspace", type=Path, required=True)
    options = parser.parse_args(argv)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for noisy in ("httpx", "httpcore", "uvicorn.error"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return run(Paths.of(options.workspace))
    except AirbossError as error:
        sys.stderr.write(json.dumps({"error": error.as_dict()}) + "\n")
        return int(error.exit)


def run(paths: Paths) -> int:
    """Take the workspace's lock, open the store and the socket, serve. Raises AirbossError when it cannot begin."""
    config = load_config(paths.root)
    paths.make()
    with (
        EngineLock(paths, config.engine.socket_group) as lock,
        contextlib.closing(Store.open(paths.store, database(config.state, paths))) as store,
    ):
        asyncio.run(_serve(paths, at_start(store, config), store, lock))
    return int(ExitCode.OK)


async def _serve(paths: Paths, config: Config, store: Store, lock: EngineLock) -> None:
    engine = Engine(paths, config, store, lock.listen())
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, engine.stop)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    write_json(
        paths.engine_info,
        {
            "pid": os.getpid(),
            "version": package_version("airboss"),
            "socket": str(paths.engine_socket),
            "at": time.time(),
        },
    )
    try:
        await engine.serve()
    finally:
        paths.engine_info.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
