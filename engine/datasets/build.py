"""A data set of a workspace: documents and a manifest in a folder named by their digest, so that the same data is kept once."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.datasets.feedback import Chosen, Example
from engine.pipelines.stages.redaction import RULES_VERSION
from state.digests import canonical_json, file_sha256, text_sha256

FOLDER = "datasets"
DOCUMENTS = "documents.jsonl"
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Built:
    """A data set in its place. `is_new` is False when the same bytes were there already."""

    sha256: str
    path: Path
    manifest: dict[str, Any]
    is_new: bool

    @property
    def id(self) -> str:
        """Its name in the store."""
        return self.sha256[:12]


def build(workspace: Path, name: str, service: str, chosen: Chosen) -> Built:
    """Write the examples below `workspace/datasets`, readable by the engine's user alone. Blocks. Raises OSError."""
    folder = workspace / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        documents = aside / DOCUMENTS
        with documents.open("w", encoding="utf-8", newline="\n") as file:
            for example in chosen.examples:
                file.write(json.dumps(example.to_json(), ensure_ascii=False, sort_keys=True) + "\n")
        documents.chmod(0o600)
        manifest = _manifest(name, service, chosen, file_sha256(documents))
        (aside / MANIFEST).write_text(canonical_json(manifest) + "\n", encoding="utf-8")
        sha256 = text_sha256(canonical_json(manifest))
        place = folder / f"{name}-{sha256[:12]}"
        is_new = not place.exists()
        if is_new:
            os.replace(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Built(sha256, place, manifest, is_new)


def _manifest(name: str, service: str, chosen: Chosen, documents: str) -> dict[str, Any]:
    return {
        "name": name,
        "service": service,
        "source": "feedback",
        "rows": len(chosen.examples),
        "chars": sum(len(e.prompt) + len(e.completion) for e in chosen.examples),
        "why": dict(sorted(Counter(e.why for e in chosen.examples).items())),
        "releases": dict(sorted(Counter(e.release for e in chosen.examples).items())),
        "redaction_rules": RULES_VERSION,
        "redactions": dict(sorted(chosen.redactions.items())),
        "documents_sha256": documents,
    }


def edges(dataset_id: str, examples: Sequence[Example]) -> list[tuple[str, str, str]]:
    """(from, to, how) of where a data set of feedback comes from: each request, and each release that answered it."""
    this = f"dataset:{dataset_id}"
    requests = dict.fromkeys((f"request:{e.request_id}", e.why, e.release) for e in examples)
    found = [(this, ref, why) for ref, why, _ in requests]
    found += [(ref, f"release:{release}", "answered_by") for ref, _, release in requests]
    return list(dict.fromkeys(found))


def dataset_of(folder: Path) -> dict[str, Any] | None:
    """The manifest of the data set that a folder is; None for any other folder. A manifest of other bytes is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict) or manifest.get("documents_sha256") != file_sha256(folder / DOCUMENTS):
            return None
    except (OSError, ValueError):
        return None
    return {**manifest, "id": text_sha256(canonical_json(manifest))[:12]}
