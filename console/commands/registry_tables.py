"""The registry's models, versions and one version, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from console.commands.context import Context
from console.commands.format import NONE, clock, number, short
from console.commands.requests import ViewRequest
from console.commands.source import Source
from console.output import Block, Facts, Outcome, Table, Text

READ_S = 150.0
"""An embedded registry that sleeps takes seconds to wake, and a slow server has its own limit."""
Item = Mapping[str, Any]


def models(request: ViewRequest, _source: Source, context: Context) -> Outcome:
    """Models by name."""
    value, notes = _ask(context, "/v1/catalogue/models", request.args)
    items = [dict(one) for one in value["models"]]
    rows = [
        (i["name"], i["newest"] or NONE, _pairs(i["aliases"]), clock(i["updated_at"]), _pairs(i["tags"])) for i in items
    ]
    table = Table(("MODEL", "NEWEST", "ALIASES", "UPDATED", "TAGS"), rows, frozenset({1}), empty="no model")
    return Outcome(
        "RegistryModel", items, blocks=(table,), names=tuple(i["name"] for i in items), notes=_more(notes, value)
    )


def versions(request: ViewRequest, _source: Source, context: Context) -> Outcome:
    """Versions of all models."""
    return _versions(request, context, with_model=True)


def model(request: ViewRequest, _source: Source, context: Context) -> Outcome:
    """One model's versions, newest first."""
    return _versions(request, context, with_model=False)


def version(request: ViewRequest, _source: Source, context: Context) -> Outcome:
    """All of one version."""
    value, notes = _ask(context, "/v1/catalogue/version", request.args)
    it = value["version"]
    name = f"{it['model']}/{it['version']}"
    facts = [
        ("version", name),
        ("aliases", ", ".join(it["aliases"]) or NONE),
        ("made", clock(it["created_at"])),
        ("run", it["run_id"] or NONE),
        ("source", it["source"] or NONE),
        ("flavours", ", ".join(value["flavours"]) or NONE),
        ("digest", f"sha256:{value['digest']}" if value["digest"] else f"{NONE} (Airboss did not register it)"),
        ("can be a release", f"no: {value['refused']}" if value["refused"] else f"yes: airboss registry import {name} --service SERVICE"),
    ]  # fmt: skip
    if it["description"]:
        facts.insert(1, ("description", it["description"]))
    if value["trouble"]:
        facts.append(("TROUBLE", value["trouble"]))
    blocks: list[Block] = [Facts(facts)]
    for title, found in (("TAG", it["tags"]), ("PARAM", value["params"]), ("METRIC", value["metrics"])):
        if found:
            blocks.append(Table((title, "VALUE"), [(key, _shown(found[key])) for key in sorted(found)]))
    if value["datasets"]:
        rows = [
            (d["name"], d["context"] or NONE, d["digest"], short(d["sha256"]) if d["sha256"] else NONE)
            for d in value["datasets"]
        ]
        blocks.append(Table(("DATA", "FOR", "DIGEST", "SHA256"), rows))
    files = [(f["path"], str(f["size"]), short(f["sha256"]) if f["sha256"] else NONE) for f in value["files"]]
    blocks.append(Table(("FILE", "BYTES", "SHA256"), files, frozenset({1}), empty="no files"))
    if any(not f["sha256"] for f in value["files"]):
        blocks.append(Text("MLflow keeps no digest of a file that another program registered"))
    return Outcome("RegistryVersion", [dict(value)], blocks=tuple(blocks), names=(name,), notes=notes)


def _ask(context: Context, path: str, args: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    answer = context.get(path, {key: value for key, value in args.items() if value != ""}, timeout_s=READ_S)
    old = f"as it was at {clock(answer['seen_at'])}: {answer['trouble']}"
    return answer["value"], ((old,) if answer["trouble"] else ())


def _more(notes: tuple[str, ...], value: Any) -> tuple[str, ...]:
    return (*notes, f"there are more: --page {value['next_page']}") if value["next_page"] else notes


def _versions(request: ViewRequest, context: Context, *, with_model: bool) -> Outcome:
    value, notes = _ask(context, "/v1/catalogue/versions", request.args)
    items = [dict(one) for one in value["versions"]]
    table = _version_table(items, with_model=with_model)
    names = tuple(f"{one['model']}/{one['version']}" for one in items)
    return Outcome("RegistryVersion", items, blocks=(table,), names=names, notes=_more(notes, value))


def _version_table(items: Sequence[Item], *, with_model: bool) -> Table:
    rows = [
        (*((i["model"],) if with_model else ()), i["version"], ", ".join(i["aliases"]) or NONE, clock(i["created_at"]), i["run_id"] or NONE, _pairs(i["tags"]))
        for i in items
    ]  # fmt: skip
    head = ("VERSION", "ALIASES", "MADE", "RUN", "TAGS")
    if with_model:
        return Table(("MODEL", *head), rows, frozenset({1}), empty="no such version")
    return Table(head, rows, frozenset({0}), empty="it has no versions")


def _pairs(found: Mapping[str, str]) -> str:
    """`a=1 b=2`, cut where a line would be full."""
    text = " ".join(f"{key}={_shown(found[key])}" for key in sorted(found))
    return (text if len(text) <= 60 else f"{text[:59]}…") or NONE


def _shown(value: Any) -> str:
    text = number(value) if isinstance(value, float) else str(value)
    return text if len(text) <= 200 else f"{text[:199]}…"
