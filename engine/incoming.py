"""A bundle that was made elsewhere becomes a release of this workspace: copied, hashed here, written down with where it came from."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session

from engine.pipelines.recorder import Published, publish
from engine.serving.bundle import SERVING_NAME, TOKENIZER_NAME, read_bundle
from state import audit
from state.digests import MANIFEST_NAME, bundle_digest, hash_tree
from state.models import Artifact, Dataset, LineageEdge, Release
from state.words import Conflict, Lifecycle, OperationFailed, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a bundle came from: `ref` is `model:NAME/VERSION` or `origin:WORKSPACE/RELEASE`, `how` the edge's kind to it."""

    ref: str
    how: str
    model_name: str
    facts: Mapping[str, Any]
    """Kept in the manifest and with the release, as they were found there."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    git_commit: str = ""
    seed: int = 0
    rejected: str = ""
    """Why it was rejected there: it stays so here."""


def checked_name(name: str) -> str:
    """A name that a release can have. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a release's name", hint="letters, digits, '.', '_', '+', '-'; --as NAME gives another"
        )
    return name


def place(source: Path, releases: Path, name: str, service: str, origin: Origin) -> Published:
    """Copy the bundle in `source` to its place under a manifest of its own, and hash it there. Blocks.

    What its manifest does not list is left behind; a link is not followed. Raises BundleRefused, Conflict, OperationFailed.
    """
    checked_name(name)
    manifest = json.loads((source / MANIFEST_NAME).read_text(encoding="utf-8"))
    listed = [str(file["path"]) for file in manifest["files"]]
    for path in listed:
        if (source / path).is_symlink() or not (source / path).resolve().is_relative_to(source.resolve()):
            raise OperationFailed(
                f"{source / path} leads elsewhere", hint="a bundle holds files only", code="bundle_link"
            )
    digest = str(manifest["digest"])
    if (releases / name / MANIFEST_NAME).is_file():
        there = bundle_digest(hash_tree(releases / name))
        if there != digest:
            raise Conflict(f"{releases / name} already holds other bytes ({there[:12]}, not {digest[:12]})", code="release_exists",
                           hint="give it another name: --as NAME")  # fmt: skip
    releases.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=releases) as aside:
        copied = Path(aside) / "bundle"
        for path in listed:
            (copied / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, copied / path)
        lineage = {**dict(manifest.get("lineage") or {}), "imported": {"from": origin.ref, **origin.facts}}
        own = {**manifest, "release_id": name, "service": service, "lineage": lineage}
        (copied / MANIFEST_NAME).write_text(json.dumps(own, ensure_ascii=False, indent=1), encoding="utf-8")
        read_bundle(copied, digest)
        return publish(copied, releases, name, digest)


def record(
    session: Session, published: Published, service: str, origin: Origin, actor: str, reason: str, now: float
) -> bool:
    """Write release, files, data, lineage and the audit row; False when it is there already. Raises Conflict for another one."""
    known = session.get(Release, published.release_id)
    if known is not None:
        if known.digest == published.digest and known.service == service:
            return False
        other = "other bytes" if known.digest != published.digest else f"those of {known.service}"
        raise Conflict(
            f"there is a release {known.id} with {other}", hint="give it another name: --as NAME", code="release_exists"
        )
    dataset_id = _dataset(session, origin.dataset, now)
    files = {file.path: file for file in published.files}
    config = _json(published.path / "config.json")
    session.add(
        Release(
            id=published.release_id, service=service, lifecycle=Lifecycle.REJECTED if origin.rejected else Lifecycle.DEVELOPMENT,
            # No version: the registry it came from is only read, so no rollout moves an alias there.
            model_name=origin.model_name, model_version="", digest=published.digest, bundle_path=str(published.path),
            dataset_id=dataset_id, git_commit=origin.git_commit, seed=origin.seed,
            training={"imported_from": origin.ref, **origin.facts}, serving=_json(published.path / SERVING_NAME),
            metrics=dict(origin.metrics), tokenizer_sha256=files[TOKENIZER_NAME].sha256 if TOKENIZER_NAME in files else "",
            context_length=int(config.get("block_size") or config.get("max_position_embeddings") or 0),
            rejected_reason=origin.rejected, created_by=actor, created_at=now,
        )
    )  # fmt: skip
    session.flush()
    for file in published.files:
        session.add(Artifact(release_id=published.release_id, path=file.path, sha256=file.sha256, size=file.size))
    this = f"release:{published.release_id}"
    edges = [(origin.ref, origin.how)]
    edges += [(f"dataset:{dataset_id}", "trained_on")] if dataset_id else []
    edges += [(f"commit:{origin.git_commit}", "built_from")] if origin.git_commit else []
    for dst, kind in edges:
        session.add(LineageEdge(src=this, dst=dst, kind=kind, at=now))
    audit.append(session, actor=actor, action="release.import", ref=this, reason=reason,
                 detail={"from": origin.ref, "digest": published.digest, "files": [asdict(file) for file in published.files]})  # fmt: skip
    return True


def _dataset(session: Session, facts: Mapping[str, Any], now: float) -> str | None:
    """The data set's row, where its sha256 is known; the data itself stays where it is, so its path is empty."""
    sha256 = str(facts.get("sha256") or "")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        return None
    if session.get(Dataset, sha256[:12]) is None:
        session.add(Dataset(id=sha256[:12], sha256=sha256, name=str(facts.get("name", "")), source=str(facts.get("source", "")),
                            path="", rows=int(facts.get("rows") or 0), chars=int(facts.get("chars") or 0),
                            redactions={}, created_at=now))  # fmt: skip
        session.flush()
    return sha256[:12]


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found = json.loads(path.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
