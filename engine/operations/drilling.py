"""Drills: who may begin one, the release it is played with, and the record of what it measured.

A drill that rolls something out does so with a twin: a release of its own with the files of the one that is live, so that
users meet the same model and no real release is rejected when it is rolled back.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from engine.access import Actor
from engine.api.schemas import VerbRequest, VerbResult
from engine.operations.desk import Desk, env_of, noun
from engine.rollouts import planning
from state import audit, ids
from state.bundle_copies import transfer
from state.digests import MANIFEST_NAME, bundle_digest, hash_tree
from state.models import Artifact, Release
from state.paths import Paths
from state.words import Conflict, Denied, Lifecycle, UsageError

FAULT = {"error_rate": 0.5, "seed": 1}
"""What the twin of a drill of the judge does: half of its answers fail."""
OUTCOMES = ("met", "missed", "failed")


async def start(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Permit a drill on a service, and make the release it needs (args: name, env, twin = "" | same | faulty)."""
    service, env = noun(request, "service"), env_of(ops.config, request)
    name, twin = str(request.args.get("name") or ""), str(request.args.get("twin") or "")
    planning.check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    if twin == "faulty" and not ops.config.environment[env].allow_faults:
        raise Denied(
            f"the drill {name} serves a release that fails on purpose, and {env} does not allow that",
            hint=f"environment.{env}.allow_faults = true",
            code="fault",
        )
    if request.dry_run:
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would begin the drill {name}")
    ref = request.ref
    if twin:
        live = await ops.store.read(lambda s: _live(s, service, env))
        made = await ops.store.write(lambda s: ids.next_id(s, "drill"))
        bundle = Paths.of(ops.workspace).releases / made
        digest = await asyncio.to_thread(_make_bundle, Path(live.bundle_path), bundle, made, twin == "faulty")
        await ops.store.write(lambda s: _register(s, live, made, bundle, digest, actor.name, twin == "faulty"))
        ref = f"release/{made}"
    await ops.store.write(
        lambda s: audit.append(s, actor=actor.name, action="drill.start", ref=f"drill:{name}", reason=request.reason,
                               detail={"service": service, "env": env, "release": made if twin else ""})
    )  # fmt: skip
    return VerbResult(
        verb=request.verb, ref=ref, changed=True, message=f"the drill {name} of {service} in {env} begins"
    )


async def finish(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Record what a drill measured (args: name, env, outcome, measured, target_s, message)."""
    service, env = noun(request, "service"), env_of(ops.config, request)
    planning.check_names(ops.config, service, env)
    ops.permit(request, actor, env, service)
    outcome = str(request.args.get("outcome") or "")
    if outcome not in OUTCOMES:
        raise UsageError(f"a drill ends {', '.join(OUTCOMES)}, not {outcome!r}", code="outcome")
    detail = {
        "name": str(request.args.get("name") or ""), "service": service, "env": env, "outcome": outcome,
        "measured": _numbers(request.args.get("measured")), "target_s": _target_s(request.args.get("target_s")),
        "message": str(request.args.get("message") or ""),
    }  # fmt: skip
    if not request.dry_run:
        await ops.store.write(
            lambda s: audit.append(s, actor=actor.name, action="drill.finish", ref=f"drill:{detail['name']}",
                                   reason=request.reason, detail=detail)
        )  # fmt: skip
        ops.on_change(request.ref, f"drill {detail['name']}: {outcome}")
    return VerbResult(verb=request.verb, ref=request.ref, changed=not request.dry_run, message=outcome)


def _numbers(given: object) -> dict[str, float | None]:
    if not isinstance(given, dict):
        raise UsageError("measured is a table of numbers", code="measured")
    return {str(key): float(value) if _is_number(value) else None for key, value in given.items()}


def _target_s(given: object) -> float | None:
    """Seconds, or None: what is recorded here is read by `status` for ever."""
    if given is None:
        return None
    if not isinstance(given, int | float) or not _is_number(given):
        raise UsageError(f"target_s is a number of seconds, not {given!r}", code="target")
    return float(given)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _live(session: Session, service: str, env: str) -> Release:
    stable = planning.stable_release(session, service, env)
    row = session.get(Release, stable) if stable else None
    if row is None:
        raise Conflict(f"nothing is live as {service} in {env}", hint="a drill needs a live release", code="not_live")
    session.expunge(row)
    return row


def _make_bundle(live: Path, target: Path, release_id: str, faulty: bool) -> str:
    """The live bundle's files under another release's name; the small ones that differ are written anew, not linked."""
    transfer(live, target)
    manifest = json.loads((target / MANIFEST_NAME).read_text(encoding="utf-8"))
    if faulty:
        path = target / "serving.json"
        serving = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.unlink(missing_ok=True)
        path.write_text(json.dumps({**serving, "fault": FAULT}), encoding="utf-8")
    files = hash_tree(target, exclude=(MANIFEST_NAME,))
    digest = bundle_digest(files)
    (target / MANIFEST_NAME).unlink()
    listed = [{"path": f.path, "sha256": f.sha256, "size": f.size} for f in files]
    body = {**manifest, "release_id": release_id, "digest": digest, "files": listed}
    (target / MANIFEST_NAME).write_text(json.dumps(body), encoding="utf-8")
    return digest


def _register(session: Session, live: Release, made: str, bundle: Path, digest: str, actor: str, faulty: bool) -> None:
    facts: dict[str, Any] = live.model_dump()
    session.add(
        Release(**{
            **facts, "id": made, "digest": digest, "bundle_path": str(bundle), "lifecycle": Lifecycle.DEVELOPMENT,
            "model_version": "", "parent_id": live.id, "rejected_reason": "", "created_by": actor, "created_at": time.time(),
            "serving": {**live.serving, "fault": FAULT} if faulty else live.serving,
        })
    )  # fmt: skip
    session.flush()
    for row in session.exec(select(Artifact).where(Artifact.release_id == live.id)).all():
        session.add(Artifact(release_id=made, path=row.path, sha256=row.sha256, size=row.size))
