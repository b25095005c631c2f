"""`release verify`: every file of a bundle, hashed and compared with its manifest and with the store's digest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from console.commands.format import short
from console.output import Outcome, Table, Text
from state.words import ExitCode, OperationFailed

if TYPE_CHECKING:
    from console.commands.context import Context


def verify(context: Context, *, release_id: str) -> Outcome:
    """Exit 0 when every byte is the one that was released."""
    from console.commands.source import Source
    from state.digests import MANIFEST_NAME, bundle_digest, hash_tree

    source = Source(context)
    record = source.get(f"/v1/releases/{release_id}")
    bundle = context.paths.releases / release_id
    try:
        manifest: dict[str, Any] = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
        listed = {str(f["path"]): str(f["sha256"]) for f in manifest["files"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OperationFailed(
            f"{release_id} has no manifest that can be read in {bundle}: {error}",
            hint="restore the bundle from a backup or another workspace",
            code="bundle",
        ) from error
    found = hash_tree(bundle, exclude=(MANIFEST_NAME,))
    rows = [(f.path, _says(listed.get(f.path), f.sha256), short(f.sha256), str(f.size)) for f in found]
    rows += [(path, "missing", short(sha), "-") for path, sha in listed.items() if path not in {f.path for f in found}]
    digest = bundle_digest(found)
    is_whole = all(row[1] == "ok" for row in rows) and digest == record["digest"] == manifest.get("digest")
    altered = f"ALTERED: its files give {short(digest)}, the store has {short(record['digest'])}"
    said = f"{release_id}: " + (f"whole, sha256:{digest}" if is_whole else altered)
    items = [
        {
            "release": release_id,
            "ok": is_whole,
            "digest": digest,
            "recorded": record["digest"],
            "files": [{"path": r[0], "says": r[1], "sha256": r[2]} for r in rows],
        }
    ]
    return Outcome(
        "ReleaseCheck",
        items,
        blocks=(Table(("FILE", "SAYS", "SHA256", "BYTES"), rows, frozenset({3})), Text(said)),
        names=(f"release/{release_id}",),
        notes=source.notes,
        exit=ExitCode.OK if is_whole else ExitCode.FAILED,
    )


def _says(listed: str | None, sha256: str) -> str:
    if listed is None:
        return "not listed"
    return "ok" if listed == sha256 else "altered"
