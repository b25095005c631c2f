"""What processes wrote: the logs of a service's replicas, and of a run's stages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.commands.format import clock
from console.commands.refs import name_of
from console.commands.requests import ViewRequest
from console.commands.source import Source
from console.output import Facts, Outcome, Text
from state.words import OperationFailed

if TYPE_CHECKING:
    from console.commands.context import Context


def of_service(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    """The ends of a service's replicas' logs."""
    name = name_of(request.ref)
    params = {"env": request.env, "replica": request.args.get("replica"), "tail": request.args["tail"]}
    items = source.get(f"/v1/services/{name}/logs", params)
    if not items:
        which = f" called {params['replica']!r}" if params["replica"] else ""
        raise OperationFailed(
            f"no replica of {name}{which} is known",
            hint="`airboss service replicas` shows those that live",
            code="not_found",
        )
    parts = []
    for one in items:
        ended = f", ended {clock(one['ended_at'])}: {one['end_cause']}" if one.get("ended_at") else ""
        parts.append(f"==> {one['id']} ({one['release_id']} in {one['env']}, {one['state']}{ended}) <==\n{one['text']}")
    return Outcome("ReplicaLog", items, blocks=(Text("\n".join(parts)),), names=[one["id"] for one in items])


def of_run(request: ViewRequest, source: Source, _context: Context) -> Outcome:
    """What a run's stages wrote, or one of them."""
    run = source.get(f"/v1/runs/{name_of(request.ref)}")
    wanted = request.args.get("stage")
    names = [s["name"] for s in run["stages"]]
    if wanted is not None and wanted not in names:
        raise OperationFailed(
            f"{run['id']} has no stage {wanted!r}", hint=f"its stages: {', '.join(names)}", code="not_found"
        )
    items, parts = [], []
    for stage in [wanted] if wanted else names:
        text = _whole_log(source, run["id"], stage, request.args.get("tail"))
        if text or wanted:
            items.append({"stage": stage, "text": text})
            parts.append(text if wanted else f"==> {stage} <==\n{text}")
    return Outcome(
        "Log", items, blocks=(Text("\n".join(parts)),) if parts else (Facts(()),), names=[i["stage"] for i in items]
    )


def _whole_log(source: Source, run: str, stage: str, tail: int | None) -> str:
    pieces, offset = [], 0
    while True:
        chunk = source.get(f"/v1/runs/{run}/log/{stage}", {"offset": offset})
        pieces.append(chunk["text"])
        if not chunk["text"] or chunk["next_offset"] <= offset:
            break
        offset = chunk["next_offset"]
    text = "".join(pieces)
    return text if tail is None else "".join(text.splitlines(keepends=True)[-tail:])
