"""What a command works with: its options, the workspace, a client of its engine. Nothing is opened before it is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.commands.requests import Options
from console.output import Output
from state.paths import Paths
from state.words import UsageError

if TYPE_CHECKING:
    from console.client import EngineClient
    from state.config import Config

MARK = "airboss.toml"


def find_workspace(given: Path | None) -> Path:
    """The workspace meant: `given`, AIRBOSS_WORKSPACE, the nearest parent with airboss.toml, else here."""
    named = given or (Path(os.environ["AIRBOSS_WORKSPACE"]) if os.environ.get("AIRBOSS_WORKSPACE") else None)
    if named is not None:
        return named.expanduser().resolve()
    here = Path.cwd().resolve()
    return next((place for place in (here, *here.parents) if (place / MARK).is_file()), here)


@dataclass
class Context:
    """One invocation. `may_ask` is False in scripts: there are no prompts there, not even on a terminal."""

    options: Options
    output: Output = field(default_factory=Output)
    may_ask: bool = True

    @cached_property
    def root(self) -> Path:
        """The workspace's directory, whether it is one or not."""
        return find_workspace(self.options.workspace)

    @cached_property
    def paths(self) -> Paths:
        """The workspace's paths. Raises UsageError when it is none."""
        if not (self.root / MARK).is_file():
            raise UsageError(
                f"{self.root} is not an Airboss workspace: there is no {MARK} in it",
                hint="run `airboss init` there, or name a workspace with --workspace DIR",
                code="no_workspace",
            )
        return Paths.of(self.root)

    @cached_property
    def config(self) -> Config:
        """The workspace's configuration. Raises ConfigError."""
        from state.config import load_config

        return load_config(self.paths.root)

    @property
    def engine_url(self) -> str:
        """The engine named by flag or environment; "" for the workspace's own."""
        return self.options.engine or os.environ.get("AIRBOSS_ENGINE", "")

    @cached_property
    def client(self) -> EngineClient:
        """A client of the engine; nothing is sent yet."""
        from console.client import EngineClient

        if self.engine_url:
            return EngineClient.at_url(self.engine_url)
        return EngineClient.at_socket(self.paths.live_engine_socket())

    def get(self, path: str, params: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """The JSON at a path of the engine's API; `timeout_s` where the engine itself has to ask. Raises AirbossError."""
        if self.engine_url and not self.engine_url.startswith("unix:"):
            if timeout_s is not None:
                from console.client import EngineClient

                return EngineClient.at_url(self.engine_url, timeout_s=timeout_s).get(path, params)
            return self.client.get(path, params)
        from console.commands.reading import READ_TIMEOUT_S, read

        return read(
            self.engine_url.removeprefix("unix:").replace("///", "/", 1) or self.paths.live_engine_socket(),
            path,
            params,
            timeout_s=timeout_s or READ_TIMEOUT_S,
        )

    @property
    def is_read_only(self) -> bool:
        """Nothing may be changed from here."""
        return self.options.read_only or os.environ.get("AIRBOSS_READ_ONLY", "") not in ("", "0")

    @property
    def can_ask(self) -> bool:
        """A person sits at a terminal and may be asked."""
        return self.may_ask and sys.stdin.isatty() and sys.stderr.isatty()

    @property
    def is_json(self) -> bool:
        """A program reads the answer."""
        return self.options.output == "json"
