"""A finished run becomes a release: its bundle moved into place and re-verified, its rows and lineage in one transaction."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, func, select

from engine.pipelines.records import ENGINE, RunRecord
from state import audit
from state.digests import FileDigest, bundle_digest, canonical_json, hash_tree, text_sha256
from state.models import Artifact, Dataset, LineageEdge, Prompt, Release, Run
from state.words import Lifecycle, OperationFailed

BUNDLE = "bundle"


@dataclass(frozen=True, slots=True)
class Published:
    """A bundle in its final place, with what was measured there."""

    release_id: str
    path: Path
    digest: str
    files: tuple[FileDigest, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the stages of a run ask to be recorded; each part is empty when no stage has it."""

    dataset: Mapping[str, Any]
    prompt: Mapping[str, Any]
    model: Mapping[str, Any]
    release: Mapping[str, Any]
    included: tuple[str, ...] = ()
    """Data sets that the run's own was collected from."""

    @classmethod
    def gather(cls, facts_by_stage: Mapping[str, Mapping[str, Any]], outputs: Mapping[str, Path]) -> Facts:
        """Merge the stages' facts in their order; a dataset's path is made absolute below its stage's outputs."""
        merged: dict[str, dict[str, Any]] = {"dataset": {}, "prompt": {}, "model": {}, "release": {}}
        for stage, facts in facts_by_stage.items():
            for part, body in merged.items():
                body.update(facts.get(part) or {})
            if facts.get("dataset"):
                merged["dataset"]["path"] = str(outputs[stage] / str(facts["dataset"].get("path", "")))
        included = [str(one) for facts in facts_by_stage.values() for one in facts.get("included") or ()]
        return cls(**merged, included=tuple(dict.fromkeys(included)))


def publish(made: Path, releases: Path, release_id: str, digest: str) -> Published:
    """Copy the bundle `made` to `releases/<release_id>`, all at once, and verify it against `digest` there.

    Repeating it is harmless: a bundle of the same digest in place is kept. Raises OperationFailed when the bytes are not
    what the release stage said, or another bundle has the place.
    """
    place = releases / release_id
    if place.exists():
        published = _measured(place, release_id)
        if published.digest == digest:
            return published
        raise OperationFailed(
            f"{place} already holds another bundle ({published.digest[:12]}, not {digest[:12]})",
            hint="move it away, then `airboss run retry`",
            code="bundle_exists",
        )
    aside = releases / f".{release_id}.new"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(made, aside)
    published = _measured(aside, release_id)
    if published.digest != digest:
        shutil.rmtree(aside)
        raise OperationFailed(
            f"the bundle of {release_id} has digest {published.digest[:12]}, the release stage said {digest[:12]}",
            hint="its files changed after they were made; start the run again",
            code="bundle_digest",
        )
    _sync(aside)
    os.replace(aside, place)
    _sync_dir(releases)
    return Published(release_id, place, published.digest, published.files)


def record(session: Session, run: RunRecord, facts: Facts, published: Published, now: float) -> None:
    """Write release, artifacts, dataset, prompt and lineage, with their audit row. Repeating it changes nothing."""
    if session.get(Release, published.release_id) is not None:
        return
    context = run.plan.context
    dataset_id = _dataset(session, facts.dataset, now)
    prompt_id = _prompt(session, facts.prompt, now)
    baseline = context.get("baseline") or {}
    release = facts.release
    parent_id = release.get("parent_id", baseline.get("release_id"))
    model_name = str(facts.model.get("name") or run.plan.pipeline.name)
    model_version = str(facts.model.get("version", ""))
    git_commit = str(context.get("git_commit") or "")
    session.add(
        Release(
            id=published.release_id,
            service=str(context.get("service") or run.plan.pipeline.name),
            lifecycle=Lifecycle.DEVELOPMENT,
            model_name=model_name,
            model_version=model_version,
            digest=published.digest,
            bundle_path=str(published.path),
            run_id=run.id,
            dataset_id=dataset_id,
            prompt_id=prompt_id,
            parent_id=parent_id,
            git_commit=git_commit,
            seed=int(release.get("seed", 0)),
            training=dict(release.get("training", {})),
            serving=dict(release.get("serving", {})),
            metrics=dict(release.get("metrics", {})),
            tokenizer_sha256=str(release.get("tokenizer_sha256", "")),
            context_length=int(release.get("context_length", 0)),
            created_by=run.created_by,
            created_at=now,
        )
    )
    session.flush()
    for file in published.files:
        session.add(Artifact(release_id=published.release_id, path=file.path, sha256=file.sha256, size=file.size))
    this, made_by = f"release:{published.release_id}", f"run:{run.id}"
    _edge(session, this, made_by, "made_by", now)
    _edge(session, made_by, f"dataset:{dataset_id}" if dataset_id else "", "trained_on", now)
    for one in facts.included:
        _edge(session, made_by, f"dataset:{one}", "collected_from", now)
    _edge(session, made_by, f"commit:{git_commit}" if git_commit else "", "built_from", now)
    _edge(session, this, f"prompt:{prompt_id}" if prompt_id else "", "prompted_by", now)
    _edge(session, this, f"release:{parent_id}" if parent_id else "", "follows", now)
    weights = (release.get("weights_from") or {}).get("release_id")
    _edge(session, this, f"release:{weights}" if weights else "", "has_weights_of", now)
    _edge(session, this, f"model:{model_name}/{model_version}" if model_version else "", "is_version", now)
    row = session.get(Run, run.id)
    if row is not None:
        row.release_id = published.release_id
        session.add(row)
    audit.append(
        session,
        actor=ENGINE,
        action="release.create",
        ref=this,
        reason=f"made by {run.id} for {run.created_by}",
        detail={
            "run": run.id,
            "digest": published.digest,
            "dataset": dataset_id,
            "prompt": prompt_id,
            "parent": parent_id,
            "model_version": model_version,
        },
    )


def _dataset(session: Session, facts: Mapping[str, Any], now: float) -> str | None:
    if not facts:
        return None
    sha256 = str(facts["sha256"])
    dataset_id = sha256[:12]
    if session.get(Dataset, dataset_id) is None:
        session.add(
            Dataset(
                id=dataset_id,
                sha256=sha256,
                name=str(facts.get("name", "")),
                source=str(facts.get("source", "")),
                path=str(facts.get("path", "")),
                rows=int(facts.get("rows", 0)),
                chars=int(facts.get("chars", 0)),
                redactions=dict(facts.get("redactions", {})),
                created_at=now,
            )
        )
        session.flush()
    return dataset_id


def _prompt(session: Session, facts: Mapping[str, Any], now: float) -> str | None:
    """The id of the prompt with this name and body: the one there is, else a new version."""
    if not facts:
        return None
    name, body = str(facts["name"]), dict(facts.get("body", {}))
    sha256 = str(facts.get("sha256") or text_sha256(canonical_json(body)))
    known = session.exec(select(Prompt.id).where(Prompt.name == name, Prompt.sha256 == sha256)).first()
    if known:
        return known
    newest = session.exec(select(func.max(col(Prompt.version))).where(Prompt.name == name)).one() or 0
    asked = int(facts.get("version") or 0)
    version = asked if asked > newest else newest + 1
    prompt_id = f"{name}/{version}"
    session.add(Prompt(id=prompt_id, name=name, version=version, sha256=sha256, body=body, created_at=now))
    session.flush()
    return prompt_id


def _edge(session: Session, src: str, dst: str, kind: str, now: float) -> None:
    if dst and session.get(LineageEdge, (src, dst, kind)) is None:
        session.add(LineageEdge(src=src, dst=dst, kind=kind, at=now))
        session.flush()


def _measured(place: Path, release_id: str) -> Published:
    files = hash_tree(place)
    return Published(release_id, place, bundle_digest(files), files)


def _sync(root: Path) -> None:
    """A release is for good: its bytes are on the disk before its name is."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_dir(path)
    _sync_dir(root)


def _sync_dir(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
