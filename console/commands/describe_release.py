"""A release, what changed between two, and a pipeline, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.commands.format import NONE, clock, number
from console.commands.tables import stage_name
from console.output import Block, Facts, Outcome, Table
from state.labels import model_label

Item = Mapping[str, Any]


def release(item: Item) -> Outcome:
    """A release: what it is made of."""
    facts = [
        ("release", item["id"]),
        ("service", item["service"]),
        ("lifecycle", item["lifecycle"]),
        ("model", model_of(item)),
        ("digest", f"sha256:{item['digest']}"),
        ("live in", " ".join(item.get("live_in") or ()) or "nowhere"),
        ("run", item.get("run_id") or NONE),
        ("data", item.get("dataset_id") or NONE),
        ("prompt", item.get("prompt_id") or NONE),
        ("parent", item.get("parent_id") or NONE),
        ("commit", item.get("git_commit") or NONE),
        ("seed", number(item.get("seed"))),
        ("made", f"{clock(item.get('created_at'))} by {item.get('created_by', NONE)}"),
    ]
    if item.get("rejected_reason"):
        facts.append(("rejected", item["rejected_reason"]))
    blocks: list[Block] = [Facts(facts)]
    for title in ("training", "serving", "metrics"):
        if item.get(title):
            blocks.append(Table((title.upper(), "VALUE"), [(k, number(v)) for k, v in flat(item[title]).items()]))
    return Outcome("Release", [item], blocks=blocks, names=(f"release/{item['id']}",), ref=f"release/{item['id']}")


def model_of(item: Item) -> str:
    """Its model and version; an imported release has none in the registry that rollouts write to."""
    if item["model_version"]:
        return model_label(item["model_name"], item["model_version"])
    return f"{item['model_name']}, no version of it in the registry"


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            found |= flat(inner, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = inner
    return found


def release_diff(before: Item, after: Item) -> tuple[Outcome, bool]:
    """Field by field what changed, and whether anything did."""
    left, right = flat(before), flat(after)
    skip = {"id", "created_at", "created_by", "live_in", "lifecycle"}
    changed = [
        (key, left.get(key), right.get(key))
        for key in dict.fromkeys([*left, *right])
        if key not in skip and left.get(key) != right.get(key)
    ]
    table = Table(
        ("FIELD", before["id"], after["id"]),
        [(k, number(a), number(b)) for k, a, b in changed],
        empty="they do not differ",
    )
    items = [{"field": k, "before": a, "after": b} for k, a, b in changed]
    return Outcome("ReleaseDiff", items, blocks=(table,), names=[k for k, _, _ in changed]), bool(changed)


def pipeline(item: Item) -> Outcome:
    """A pipeline: stages and parameters."""
    facts = Facts(
        [
            ("pipeline", item["name"]),
            ("kind", item.get("kind", NONE)),
            ("stages", " > ".join(stage_name(s) for s in item.get("stages") or ())),
        ]
    )
    rows = [(k, number(v)) for k, v in flat(item.get("params") or {}).items()]
    return Outcome(
        "Pipeline",
        [item],
        blocks=(facts, Table(("PARAMETER", "VALUE"), rows, empty="no parameters set")),
        names=(f"pipeline/{item['name']}",),
    )
