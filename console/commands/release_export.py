"""`release export`: a release's bundle, record and lineage as a directory that another workspace imports."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.output import Outcome, Text
from state.words import OperationFailed, UsageError

if TYPE_CHECKING:
    from console.commands.context import Context

FORMAT = "airboss-release/1"
EXPORT_NAME = "airboss-export.json"
BUNDLE = "bundle"


def export(context: Context, *, release_id: str, to: Path) -> Outcome:
    """Write DIR/bundle/, DIR/airboss-export.json, DIR/SHA256SUMS. Raises when a byte is not the one that was released."""
    from console.commands.source import Source
    from state.digests import MANIFEST_NAME, bundle_digest, file_sha256, hash_tree

    source = Source(context)
    record = source.get(f"/v1/releases/{release_id}")
    bundle = context.paths.releases / release_id
    target = to.expanduser().absolute()
    aside = target.with_name(f".{target.name}.new")
    if target.exists():
        raise UsageError(
            f"{target} is there already", hint="name a directory that is to be made: --to DIR", code="exists"
        )
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        shutil.copytree(bundle, aside / BUNDLE, symlinks=True)
        files = hash_tree(aside / BUNDLE, exclude=(MANIFEST_NAME,))
        if bundle_digest(files) != record["digest"]:
            raise OperationFailed(f"the bundle {bundle} is not what was released", code="bundle_digest",
                                  hint=f"`airboss release verify {release_id}` names the file; restore it first")  # fmt: skip
        manifest = json.loads((aside / BUNDLE / MANIFEST_NAME).read_text(encoding="utf-8"))
        said: dict[str, Any] = {
            "format": FORMAT,
            "workspace": str(context.config.workspace.get("name") or context.root.name),
            "exported_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "release": {key: value for key, value in record.items() if key != "live_in"},
            "dataset": _dataset(manifest),
            "lineage": source.get("/v1/lineage", {"ref": f"release/{release_id}"}),
            "files": [{"path": file.path, "sha256": file.sha256, "size": file.size} for file in files],
        }
        (aside / EXPORT_NAME).write_text(json.dumps(said, ensure_ascii=False, indent=1), encoding="utf-8")
        sums = [f"{file.sha256}  {BUNDLE}/{file.path}" for file in files]
        sums += [f"{file_sha256(aside / name)}  {name}" for name in (f"{BUNDLE}/{MANIFEST_NAME}", EXPORT_NAME)]
        (aside / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")
        os.rename(aside, target)
    except OSError as error:
        raise OperationFailed(f"{release_id} cannot be written to {target}: {error.strerror or error}", code="export",
                              hint="make room there, or name another place") from error  # fmt: skip
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = sum(file.size for file in files)
    item = {"release": release_id, "to": str(target), "digest": record["digest"], "files": len(files), "bytes": size}
    blocks = (Text(f"{release_id}: {len(files)} files, {size} bytes, sha256:{record['digest']} in {target}"),
              Text(f"there: airboss release import {target}"))  # fmt: skip
    return Outcome("ReleaseExport", [item], blocks=blocks, names=(str(target),), notes=tuple(source.notes))


def _dataset(manifest: dict[str, Any]) -> dict[str, Any]:
    """The data set that the manifest names, without its path: the data does not travel."""
    lineage = manifest.get("lineage")
    found = lineage.get("dataset") if isinstance(lineage, dict) else None
    return {key: value for key, value in found.items() if key != "path"} if isinstance(found, dict) else {}
