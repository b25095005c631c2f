"""`registry.import` and `release.import`: bytes from elsewhere become a release, copied and verified. They move no traffic."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapters.catalogue import CatalogueDetails, refuse
from engine.access import EVERYWHERE, Actor
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.incoming import Origin, checked_name, place, record
from engine.operations.desk import Desk, noun
from engine.registry_import import bundle_of
from engine.serving.bundle import read_bundle
from state.digests import file_sha256
from state.paths import Paths
from state.words import Lifecycle, UsageError

EXPORT_NAME = "airboss-export.json"
BUNDLE = "bundle"
FORMAT = "airboss-release/1"


async def registry_import(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Make a release of `model`/`version` (a number or @alias) of the registry, for a service. Nothing is written there.

    Raises OperationFailed (`refused`) for pickles and what cannot be served, Conflict when the name has other bytes.
    """
    service = noun(request, "service")
    ops.permit(request, actor, EVERYWHERE, service)
    _known_service(ops, service)
    model, version = str(request.args.get("model") or ""), str(request.args.get("version") or "")
    if ops.catalogue is None or not model or not version:
        raise UsageError("registry.import takes a model and its version", code="args")
    known = await ops.catalogue.ask_now(lambda c: c.details(model, version))
    number = known.version.version
    if known.refused:
        raise refuse(model, number, known.refused)
    name = checked_name(str(request.args.get("name") or _slug(f"{model}-v{number}")))
    if request.dry_run:
        return _planned(
            request, name, service, f"model {model}/{number}", len(known.files), sum(f.size for f in known.files)
        )
    paths = Paths.of(ops.workspace)
    paths.models.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=paths.models) as aside:
        fetched = await ops.catalogue.ask_now(lambda c: c.fetch(model, number, aside))
        bundle = await asyncio.to_thread(bundle_of, Path(aside), fetched, paths.models)
        origin = _registry_origin(fetched)
        published = await asyncio.to_thread(place, bundle, paths.releases, name, service, origin)
    return await _written(ops, request, actor, published, service, origin)


async def release_import(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Take over a release that `airboss release export` wrote to `path`, a directory that the engine can read.

    Raises UsageError when there is none, BundleRefused when a byte differs, Conflict when the name has other bytes.
    """
    noun(request, "engine")
    ops.permit(request, actor, EVERYWHERE, "import")
    folder = Path(str(request.args.get("path") or ""))
    export = await asyncio.to_thread(_read_export, folder)
    told: Mapping[str, Any] = export["release"]
    service = str(request.args.get("service") or told["service"])
    _known_service(ops, service)
    name = checked_name(str(request.args.get("name") or told["id"]))
    bundle = folder / BUNDLE
    await asyncio.to_thread(read_bundle, bundle, str(told["digest"]))
    if request.dry_run:
        files = export["files"]
        return _planned(
            request,
            name,
            service,
            f"{export['workspace']}/{told['id']}",
            len(files),
            sum(int(f["size"]) for f in files),
        )
    origin = _release_origin(export)
    published = await asyncio.to_thread(place, bundle, Paths.of(ops.workspace).releases, name, service, origin)
    return await _written(ops, request, actor, published, service, origin)


async def _written(
    ops: Desk, request: VerbRequest, actor: Actor, published: Any, service: str, origin: Origin
) -> VerbResult:
    is_new = await ops.store.write(
        lambda s: record(s, published, service, origin, actor.name, request.reason, time.time())
    )
    ref = f"release/{published.release_id}"
    said = f"{published.release_id} is a release of {service}, {len(published.files) - 1} files, sha256 {published.digest[:12]}, from {origin.ref}"
    if is_new:
        ops.on_change(ref, said)
    return VerbResult(
        verb=request.verb, ref=ref, changed=is_new, message=said if is_new else f"unchanged: {said} already"
    )


def _planned(request: VerbRequest, name: str, service: str, source: str, files: int, size: int) -> VerbResult:
    lines = (PlanLine(object=name, field="release", before="", after=f"of {service}, from {source}"),
             PlanLine(object=name, field="files", before="", after=f"{files}, {size} bytes, copied and hashed"))  # fmt: skip
    return VerbResult(verb=request.verb, ref=f"release/{name}", changed=False, message=f"would import {source}",
                      plan=PlanView(verb=request.verb, ref=f"release/{name}", lines=lines))  # fmt: skip


def _known_service(ops: Desk, service: str) -> None:
    if service not in ops.config.service:
        raise UsageError(
            f"there is no service {service!r}", code="no_service",
            hint=f"--service: airboss.toml has {', '.join(ops.config.service) or 'none'}",
        )  # fmt: skip


def _registry_origin(known: CatalogueDetails) -> Origin:
    it = known.version
    data = [dict(one) for one in known.datasets]
    facts = {"run": it.run_id, "source": it.source, "tags": dict(it.tags), "params": dict(known.params), "data": data,
             "flavours": list(known.flavours)}  # fmt: skip
    with_sha = next((one for one in data if one.get("sha256")), {})
    commit = it.tags.get("airboss.git_commit") or it.tags.get("mlflow.source.git.commit") or ""
    rejected = it.tags.get("airboss.reject_reason", "") if it.tags.get("airboss.stage") == Lifecycle.REJECTED else ""
    return Origin(f"model:{it.model}/{it.version}", "is_version", it.model, facts, metrics=dict(known.metrics),
                  dataset=with_sha, git_commit=commit, rejected=rejected)  # fmt: skip


def _release_origin(export: Mapping[str, Any]) -> Origin:
    told = export["release"]
    facts = {"exported_at": export["exported_at"], "made_by": told["created_by"], "made_at": datetime.fromtimestamp(told["created_at"], UTC).isoformat(timespec="seconds"),
             "run": told["run_id"] or "", "prompt": told["prompt_id"] or "", "parent": told["parent_id"] or "",
             "version": told["model_version"], "there": dict(told["training"]), "lineage": export["lineage"]}  # fmt: skip
    return Origin(
        f"origin:{export['workspace']}/{told['id']}", "copied_from", str(told["model_name"]), facts, metrics=dict(told["metrics"]),
        dataset=export["dataset"], git_commit=str(told["git_commit"]), seed=int(told["seed"]), rejected=str(told["rejected_reason"]),
    )  # fmt: skip


def _read_export(folder: Path) -> dict[str, Any]:
    """What was exported, its own checksum compared. Raises UsageError."""
    hint = "name the directory that `airboss release export R --to DIR` wrote, by a path that the engine can read"
    file = folder / EXPORT_NAME
    if not folder.is_absolute():
        raise UsageError(f"{folder} is no absolute path", hint=hint, code="path")
    try:
        export: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        sums = (folder / "SHA256SUMS").read_text(encoding="utf-8")
        if export["format"] != FORMAT:
            raise UsageError(
                f"{file} has the format {export['format']!r}", hint=f"this version takes {FORMAT}", code="format"
            )
        told = export["release"]
        lacking = [key for key in ("id", "service", "digest", "training", "metrics", "model_name") if key not in told]
        if lacking or not isinstance(export["files"], list):
            raise UsageError(f"{file} lacks {', '.join(lacking) or 'files'}", hint=hint, code="format")
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read: {error.strerror}", hint=hint, code="path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is no exported release: {error}", hint=hint, code="format") from error
    if f"{file_sha256(file)}  {EXPORT_NAME}" not in sums.splitlines():
        raise UsageError(
            f"{file} is not what was exported: its sha256 is not in SHA256SUMS", hint="copy it again", code="altered"
        )
    return export


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-.")[:100] or "model"
