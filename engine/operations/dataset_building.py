"""`dataset.build`: users' feedback becomes a data set, with where each line of it comes from."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter

from sqlmodel import Session, col, select

from engine.access import Actor, demand_everywhere
from engine.api.schemas import PlanLine, PlanView, VerbRequest, VerbResult
from engine.datasets.build import Built, build, edges
from engine.datasets.feedback import Chosen, chosen, read_words
from engine.operations.desk import Desk, noun
from state import audit
from state.models import Dataset, LineageEdge, Release
from state.paths import Paths
from state.words import Conflict, UsageError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")


async def dataset_build(ops: Desk, request: VerbRequest, actor: Actor) -> VerbResult:
    """Build the data set `NAME` of the feedback on a service's answers. The same feedback makes the same data set.

    Raises UsageError for a service or release that is not there, Conflict when no word makes an example.
    """
    name = noun(request, "dataset")
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a data set", hint="small letters, digits, - and _", code="name")
    # Users' texts are in it, and a model of any environment may come of it.
    demand_everywhere(ops.config, actor, request.verb)
    service, releases = await ops.store.read(lambda s: _meant(s, request, list(ops.config.service)))
    since = time.time() - float(request.args["since_s"]) if request.args.get("since_s") else 0.0
    found = await asyncio.to_thread(
        lambda: chosen(read_words(Paths.of(ops.workspace).gateway), frozenset(releases), since)
    )
    left = ", ".join(f"{count} {why}" for why, count in sorted(found.left_out.items())) or "none"
    if not found.examples:
        raise Conflict(
            f"no feedback on {service} makes an example; left out: {left}",
            hint="corrections with consent make data: POST /feedback, and [gateway] feedback_text = true",
            code="no_feedback",
        )
    said = f"{len(found.examples)} examples of feedback on {service}; left out: {left}"
    if request.dry_run:
        lines = tuple(
            PlanLine(object=name, field=why, before="", after=str(count)) for why, count in _tally(found).items()
        )
        return VerbResult(verb=request.verb, ref=request.ref, changed=False, message=f"would build {said}",
                          plan=PlanView(verb=request.verb, ref=request.ref, lines=lines))  # fmt: skip
    built = await asyncio.to_thread(build, ops.workspace, name, service, found)
    is_new = await ops.store.write(lambda s: _record(s, built, found, request, actor))
    ref = f"dataset/{built.id}"
    place = built.path.relative_to(ops.workspace)
    said = f"in {place}: {said}"
    if is_new:
        ops.on_change(ref, said)
    hint = f"train on it with `airboss pipeline run PIPELINE --set collect.also={place}`"
    message = f"{said}; {hint}" if is_new else f"unchanged: {said}"
    return VerbResult(verb=request.verb, ref=ref, changed=is_new, message=message)


def _tally(found: Chosen) -> dict[str, int]:
    return {
        **Counter(example.why for example in found.examples),
        **{f"left out: {w}": n for w, n in found.left_out.items()},
    }


def _meant(session: Session, request: VerbRequest, services: list[str]) -> tuple[str, list[str]]:
    """The service, and the releases of it whose answers count."""
    service = str(request.args.get("service") or (services[0] if len(services) == 1 else ""))
    if service not in services:
        raise UsageError(
            f"there is no service {service!r}" if service else "which service's feedback?",
            hint=f"--service, one of {', '.join(services) or 'none'}",
            code="service",
        )
    known = set(session.exec(select(Release.id).where(col(Release.service) == service)))
    wanted = [str(one) for one in request.args.get("releases") or ()]
    for release in wanted:
        if release not in known:
            raise UsageError(
                f"{service} has no release {release}", hint="`airboss release list` shows them", code="no_release"
            )
    return service, wanted or sorted(known)


def _record(session: Session, built: Built, found: Chosen, request: VerbRequest, actor: Actor) -> bool:
    """The rows of a data set, once; False when they are there."""
    if session.get(Dataset, built.id) is not None:
        return False
    now = time.time()
    manifest = built.manifest
    session.add(
        Dataset(
            id=built.id, sha256=built.sha256, name=manifest["name"], source="feedback", path=str(built.path),
            rows=manifest["rows"], chars=manifest["chars"], redactions=manifest["redactions"], created_at=now,
        )
    )  # fmt: skip
    for src, dst, kind in edges(built.id, found.examples):
        if session.get(LineageEdge, (src, dst, kind)) is None:
            session.add(LineageEdge(src=src, dst=dst, kind=kind, at=now))
    audit.append(
        session, actor=actor.name, action=request.verb, ref=f"dataset:{built.id}", reason=request.reason,
        detail={"name": manifest["name"], "rows": manifest["rows"], "releases": manifest["releases"], "left_out": dict(found.left_out)},
    )  # fmt: skip
    return True
