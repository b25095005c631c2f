"""What `serve MODEL` may name: a release, a bundle, or a foreign model, which a child process turns into a bundle first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console import diagnostics
from console.commands.context import MARK
from state.digests import MANIFEST_NAME
from state.paths import Paths
from state.words import OperationFailed, UsageError, error_from_dict

if TYPE_CHECKING:
    from console.commands.context import Context

CONVERTER = "engine.serving.convert"
SMOLLM = "smollm"
"""The model of the `smollm` extra, wherever it was installed to."""


def find_bundle(context: Context, model: str) -> tuple[Path, str, str]:
    """Directory, name and digest of a release or of a bundle's directory. Raises UsageError."""
    directory = Path(model).expanduser()
    if not (directory / MANIFEST_NAME).is_file() and (context.root / MARK).is_file():
        directory = context.paths.releases / model
    if not (directory / MANIFEST_NAME).is_file():
        raise UsageError(
            f"{model} is neither a release in {context.root} nor a model on the disk",
            hint="`airboss release list` names the releases; `airboss help serving` says which models are taken",
            code="no_release",
        )
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST_NAME).read_text(encoding="utf-8"))
        return directory.resolve(), str(manifest.get("release_id") or directory.name), str(manifest["digest"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{directory / MANIFEST_NAME} is no release's manifest: {error}",
            hint="restore the release from a backup or the registry, or name another one",
            code="no_release",
        ) from error


def bundle_of(context: Context, model: str, meta: Path | None) -> tuple[Path, str, str]:
    """As `find_bundle`, and what is on the disk in a foreign format is converted, or found converted before."""
    path = Path(model).expanduser()
    is_workspace = (context.root / MARK).is_file()
    is_release = is_workspace and (Paths.of(context.root).releases / model / MANIFEST_NAME).is_file()
    is_foreign = path.exists() or model == SMOLLM
    if (path / MANIFEST_NAME).is_file() or is_release or not is_foreign:
        return find_bundle(context, model)
    made = _converted(model, _cache(context, is_workspace), meta)
    if not made["was_there"]:
        diagnostics.note(f"the bundle is kept as {made['bundle']}")
    return Path(made["bundle"]), str(made["release_id"]), str(made["digest"])


def on_disk(context: Context, model: str) -> tuple[Path, str, str]:
    """As `find_bundle`, but anything on the disk will do: a program that is not ours knows what it can load."""
    path = Path(model).expanduser()
    if (path / MANIFEST_NAME).is_file() or not path.exists():
        return find_bundle(context, model)
    return path.resolve(), path.name, ""


def _cache(context: Context, is_workspace: bool) -> Path:
    """Where converted models are kept: the workspace's own place, else the user's cache."""
    if is_workspace:
        return Paths.of(context.root).models
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "airboss" / "models"


def _converted(model: str, cache: Path, meta: Path | None) -> dict[str, Any]:
    """What the converter says of the bundle it made; its progress goes to stderr by itself.

    There is no deadline: a large model takes as long as its disk does, and Ctrl-C ends it. Raises what it refused.
    """
    words = [sys.executable, "-P", "-m", CONVERTER, model, "--cache", str(cache)]
    if meta is not None:
        words += ["--meta", str(meta)]
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        output, _ = child.communicate()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    try:
        said: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        raise OperationFailed(
            f"the converter ended with {child.returncode} before it could say what came of {model}",
            hint="what it wrote above says why; -9 means that it was killed, perhaps for want of memory",
            code="converter_died",
        ) from None
    if "error" in said:
        raise error_from_dict(said["error"])
    return said
